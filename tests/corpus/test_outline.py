"""Titles and sections of real files of each kind."""

import zipfile
from pathlib import Path

import pytest
from documents import draw_docx, draw_pdf, sentences

from nbutils.core import project_folder
from nbutils.corpus.chunks import load_corpus
from nbutils.corpus.outline import locate, markdown_headings, usable_title


@pytest.mark.parametrize(
    "title",
    [
        "0001018724-18-000005",
        "Microsoft Word - Report final.docx",
        "Untitled",
        "",
        None,
        "10-K_2022",
        "report.indd",
        "12/2022",
    ],
)
def test_titles_that_say_nothing(title):
    assert usable_title(title) == ""


@pytest.mark.parametrize(
    "title", ["Annual Report 2022", "ADBE 10-K FY22", "Übersicht", "10-K - 02/07/2019 - 3M Company", "年度报告"]
)
def test_titles_that_say_something(title):
    assert usable_title(title) == title


def _outline(path: Path) -> tuple[str | None, list[str | None]]:
    nodes = load_corpus(path, chunk_size=32, chunk_overlap=0, header=["title", "section"])
    [title] = {node.metadata.get("title") for node in nodes}
    return title, list(dict.fromkeys(node.metadata.get("section") for node in nodes))


def test_markdown(tmp_path):
    path = tmp_path / "a.md"
    code = "```\n# no heading\n```"
    path.write_text(
        f"# Ferry report\n{sentences(4)}\n\n{code}\n\n## Fares ##\n{sentences(4, 1)}\n\nFuel\n----\n{sentences(4, 2)}"
    )
    assert _outline(path) == ("Ferry report", ["Ferry report", "Fares", "Fuel"])
    assert markdown_headings("#hashtag\n    # code\n") == []


def test_front_matter_and_indented_code_hold_no_headings():
    text = "---\ntitle: The fares\n---\n# Fares\n- do\n  ```sh\n  # a comment\n  ```\n````\n```\n# no\n```\n````\n## Fuel\n"
    assert markdown_headings(text) == ["Fares", "Fuel"]
    assert markdown_headings("---\n\nA rule above and below\n\n---\n# Fares\n") == ["Fares"]


def test_html(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(
        f"<html><title>Ferry report</title><p>Fares</p><p>{sentences(4)}</p><h2>Fares <i>and</i><br>tickets</h2>"
        f"<p>{sentences(4, 1)}</p><h3>Fuel</h3>{sentences(4, 2)}</html>"
    )
    assert _outline(path) == ("Ferry report", [None, "Fares and tickets", "Fuel"])


def test_docx(tmp_path):
    path = tmp_path / "a.docx"
    path.write_bytes(draw_docx("HEADING", sentences(8)))
    with zipfile.ZipFile(path) as archive:
        body = archive.read("word/document.xml").decode()
    heading = '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Fares</w:t></w:r></w:p>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", body.replace("<w:p><w:r><w:t>HEADING</w:t></w:r></w:p>", heading))
        archive.writestr("docProps/core.xml", "<cp:p><dc:title>Ships &amp; ports</dc:title></cp:p>")
    assert _outline(path) == ("Ships & ports", ["Fares"])


def test_pdf_with_bookmarks(tmp_path):
    def marked(number: int):
        def page(pdf):
            pdf.bookmarkPage(str(number))
            pdf.addOutlineEntry(f"Chapter {number}", str(number))
            pdf.setFont("Helvetica", 10)
            pdf.drawString(60, 700, f"Text of page {number} which goes on for a while.")

        return page

    path = tmp_path / "a.pdf"
    path.write_bytes(draw_pdf(marked(1), sentences(9), marked(2)))
    assert _outline(path)[1] == ["Chapter 1", "Chapter 2"]


def test_pdf_without_bookmarks(tmp_path):
    def page(heading: str, font: str, size: int):
        def draw(pdf):
            pdf.setFont(font, size)
            pdf.drawString(60, 740, heading)
            lines = pdf.beginText(60, 700)
            lines.setFont("Helvetica", 10)
            for i in range(20):
                lines.textLine(f"Line {i} below {heading.lower()} is like any other.")
            pdf.drawText(lines)

        return draw

    path = tmp_path / "a.pdf"
    pages = [
        page("Ferries of the lake", "Times-Roman", 24),
        page("Fares", "Helvetica-Bold", 10),
        page("1,200 3", "Helvetica", 20),
    ]
    path.write_bytes(draw_pdf(*pages))
    assert _outline(path) == ("Ferries of the lake", ["Ferries of the lake", "Fares"])
    plain = tmp_path / "plain.pdf"
    plain.write_bytes(draw_pdf(sentences(30), sentences(30, 1)))
    assert _outline(plain) == (None, [None])


def test_the_sample_s_sections_are_those_of_its_source():
    folder = project_folder() / "data" / "sample"
    source = set(markdown_headings((folder / "norvane_2024.md").read_text(encoding="utf-8")))
    nodes = load_corpus(folder / "norvane_2024.pdf", chunk_size=256, header="section")
    sections = [node.metadata.get("section") for node in nodes]
    assert sum(section in source for section in sections) > 0.8 * len(nodes)


def test_a_section_goes_on_over_pages():
    assert locate(["Intro\nx", "y\nCosts\nz", "w"], [(0, "Intro"), (1, "Costs"), (2, "Lost")]) == [
        [(0, "Intro")], [(0, "Intro"), (2, "Costs")], [(0, "Costs"), (0, "Lost")],
    ]  # fmt: skip
