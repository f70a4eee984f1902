"""Reading, splitting, downloading and saving a corpus."""

import http.server
import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, NodeRelationship
from PIL import Image
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen import canvas

from nbutils.core import UserError
from nbutils.corpus import chunks as corpus
from nbutils.corpus.chunks import (
    check_disjoint,
    chunk_lengths,
    corpus_summary,
    download,
    find_files,
    load_corpus,
    load_documents,
    read_corpus,
    save_corpus,
    split_corpus,
)

FILINGS = Path(__file__).parents[3] / "shared" / "data" / "filings"
needs_filings = pytest.mark.skipif(not FILINGS.is_dir(), reason="the shared filings are not on this machine")


def sentences(count: int, seed: int = 0) -> str:
    """Sentences of words that occur nowhere else."""
    return " ".join(f"Item{seed}x{i} rose while cost{seed}x{i} fell to {seed}{i:04d} dollars." for i in range(count))


def draw_pdf(*pages, **options) -> bytes:
    """A PDF whose pages are texts (one line each), functions that draw on the canvas, or None for an empty page."""
    buffer = io.BytesIO()
    pdf = canvas.Canvas(buffer, pagesize=(612, 792), invariant=1, **options)
    for page in pages:
        if callable(page):
            page(pdf)
        elif page:
            lines = pdf.beginText(60, 740)
            lines.setFont("Helvetica", 9)
            words = page.split()
            for start in range(0, len(words), 12):
                lines.textLine(" ".join(words[start : start + 12]))
            pdf.drawText(lines)
        pdf.showPage()
    pdf.save()
    return buffer.getvalue()


def draw_scan(pdf) -> None:
    pdf.drawImage(ImageReader(Image.new("RGB", (60, 80), "white")), 0, 0, 612, 792)


def draw_docx(*paragraphs: str) -> bytes:
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{space}"><w:body>{body}</w:body></w:document>')
    return buffer.getvalue()


def words(nodes) -> Counter:
    return Counter(word for node in nodes for word in node.text.split())


@pytest.fixture
def report(tmp_path) -> Path:
    path = tmp_path / "report.pdf"
    path.write_bytes(draw_pdf(*(sentences(30, seed) for seed in range(10))))
    return path


# Reading


def test_pdf_is_one_document_a_page(report):
    documents = load_documents(report)
    assert [d.metadata for d in documents] == [
        {"file_name": "report.pdf", "page_label": str(n), "page": n} for n in range(1, 11)
    ]
    assert [d.text.split() for d in documents] == [sentences(30, seed).split() for seed in range(10)]


def test_prints_what_the_walkthrough_prints(report, capsys):
    nodes = load_corpus([str(report)], verbose=True)
    assert capsys.readouterr().out == f"Loading files ['report.pdf']\nLoaded 10 docs\nParsed {len(nodes)} nodes\n"
    load_corpus([str(report)])
    assert capsys.readouterr().out == ""


def test_page_labels(tmp_path):
    def roman(pdf):
        pdf.addPageLabel(0, style="ROMAN_LOWER")
        pdf.drawString(60, 700, "Preface of the report")

    (tmp_path / "a.pdf").write_bytes(draw_pdf(roman, "First page", None))
    documents = load_documents(tmp_path / "a.pdf")
    assert [(d.metadata["page_label"], d.metadata["page"]) for d in documents] == [("i", 1), ("ii", 2), ("iii", 3)]


def test_pages_without_text_are_fine(tmp_path, capsys):
    (tmp_path / "a.pdf").write_bytes(draw_pdf("Some text here", None, draw_scan, "More text there"))
    nodes = load_corpus(tmp_path / "a.pdf", verbose=True)
    assert "Loaded 4 docs (2 without text)" in capsys.readouterr().out
    assert [(node.text, node.metadata["page"]) for node in nodes] == [("Some text here", 1), ("More text there", 4)]


def test_owner_password_alone_does_not_matter(tmp_path):
    lock = StandardEncryption("", ownerPassword="secret", canPrint=0)
    (tmp_path / "a.pdf").write_bytes(draw_pdf("Anyone may read this", encrypt=lock))
    assert load_corpus(tmp_path / "a.pdf")[0].text == "Anyone may read this"


def test_turned_pages(tmp_path):
    def turned(pdf):
        pdf.setPageRotation(90)
        pdf.drawString(60, 500, "A page that is turned")

    def landscape_table(pdf):
        pdf.rotate(90)
        for row in range(40):
            for column in range(4):
                pdf.drawString(60 + 170 * column, -40 - 12 * row, f"cell {row} {column} of table")

    (tmp_path / "a.pdf").write_bytes(draw_pdf(turned, landscape_table))
    first, second = load_documents(tmp_path / "a.pdf")
    assert first.text == "A page that is turned"
    assert second.text.splitlines()[3].split() == " ".join(f"cell 3 {c} of table" for c in range(4)).split()


def test_sparse_table_is_not_taken_for_vertical_writing(tmp_path):
    # Each letter is drawn by itself, in narrow columns: pdfium alone puts every letter on its own line.
    cells = [[f"cell{column}x{row}" for column in range(3)] for row in range(40)]

    def table(pdf):
        pdf.setFont("Helvetica", 9)
        for row, line in enumerate(cells):
            for column, text in enumerate(line):
                for i, letter in enumerate(text):
                    pdf.drawString(60 + 200 * column + pdf.stringWidth(text[:i]), 740 - 12 * row, letter)

    (tmp_path / "a.pdf").write_bytes(draw_pdf(table))
    assert [line.split() for line in load_documents(tmp_path / "a.pdf")[0].text.splitlines()] == cells


def test_huge_table_and_500_pages(tmp_path):
    def table(pdf):
        pdf.setFont("Helvetica", 3)
        for row in range(180):
            for column in range(30):
                pdf.drawString(10 + 20 * column, 780 - 4 * row, f"{row * 30 + column}")

    (tmp_path / "a.pdf").write_bytes(draw_pdf(table, *(f"Page {number} says hello" for number in range(2, 501))))
    nodes = load_corpus(tmp_path / "a.pdf", chunk_size=128, chunk_overlap=0)
    assert words(node for node in nodes if node.metadata["page"] == 1) == Counter(str(i) for i in range(5400))
    assert [n.text for n in nodes if n.metadata["page"] > 1] == [f"Page {n} says hello" for n in range(2, 501)]


def test_one_damaged_page_does_not_take_the_others_along(tmp_path):
    data = draw_pdf("First page", "Second page", "Third page", pageCompression=0)
    (tmp_path / "a.pdf").write_bytes(data.replace(b"(Second page) Tj", b"(Second ] <<>Tj "))
    texts = [document.text for document in load_documents(tmp_path / "a.pdf")]
    assert len(texts) == 3 and texts[0] == "First page" and texts[2] == "Third page"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("net\xa0income \n\u200bof\xad 5\x00", "net income\nof 5"),
        ("\ufeffstart\x0cend\ud800", "start\nend"),
        ("naïve café – “quoted” 5 % ﬁ €", "naïve café – “quoted” 5 % ﬁ €"),
    ],
)
def test_clean(raw, clean):
    assert corpus._clean(raw) == clean


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zs"]) | st.sampled_from(" \n")))
def test_clean_keeps_words_and_is_idempotent(text):
    clean = corpus._clean(text)
    assert clean.split() == text.replace("\ufffe", "-").replace("\uffff", "").split()
    assert corpus._clean(clean) == clean


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["non\ufffeGAAP"], ["non-GAAP"]),
        (["share\ufffeholders", "All Shareholders meet"], ["shareholders", "All Shareholders meet"]),
        (["re\ufffesign", "resign or re-sign"], ["re-sign", "resign or re-sign"]),
        (["COVID\ufffe19 and 13a\ufffe15(f)\ufffe"], ["COVID-19 and 13a-15(f)-"]),
    ],
)
def test_hyphens_at_line_ends(texts, joined):
    assert corpus._join_hyphens(texts) == joined


def test_many_hyphens_in_a_long_document_take_no_time():
    page = " ".join(f"depart\ufffement{i} and long\ufffeterm{i}" for i in range(40))
    begun = time.process_time()
    joined = corpus._join_hyphens([page] * 500)
    assert time.process_time() - begun < 5
    assert joined[0].startswith("depart-ment0 and long-term0 ")


def test_text_formats(tmp_path):
    (tmp_path / "a.txt").write_text("Plain text, naïve.", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes("Latin text, naïve – “quoted”.".encode("cp1252"))
    (tmp_path / "c.txt").write_text("Wide text, naïve.", encoding="utf-16")
    (tmp_path / "d.md").write_text("# Heading\n\nSome *prose*.", encoding="utf-8")
    (tmp_path / "e.HTML").write_text(
        "<!doctype html><title>T</title><script>var x</script><style>b{}</style>"
        "<p>One para<b>graph</b>\n here<br>now<table><tr><td>1<td>2</table>&amp; more"
    )
    (tmp_path / "f.docx").write_bytes(draw_docx("First paragraph", "Second &amp; last"))
    texts = {document.metadata["file_name"]: document.text for document in load_documents(tmp_path)}
    assert texts == {
        "a.txt": "Plain text, naïve.",
        "b.txt": "Latin text, naïve – “quoted”.",
        "c.txt": "Wide text, naïve.",
        "d.md": "# Heading\n\nSome *prose*.",
        "e.HTML": "T\nOne paragraph here\nnow\n1\n2\n& more",
        "f.docx": "First paragraph\n\nSecond & last",
    }


# Finding files


def test_find_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.txt", "b/1.txt", "a.md", "b/c/3.md", "b/.hidden.txt", "b/.cache/4.txt", "b/image.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)

    def found(files):
        return [str(path) for path in find_files(files)]

    assert found("a.md") == found(Path("a.md")) == found(["a.md"]) == ["a.md"]
    assert found("b") == ["b/1.txt", "b/2.txt", "b/c/3.md"]
    assert found("b/*.txt") == ["b/1.txt", "b/2.txt"]
    assert found("**/*.md") == ["a.md", "b/c/3.md"]
    assert found(["b/2.txt", tmp_path / "b" / "2.txt", "b"]) == ["b/2.txt", "b/1.txt", "b/c/3.md"]
    assert found(["https://example.org/x.pdf"] * 2) == ["https://example.org/x.pdf"]


def test_a_file_name_may_look_like_a_glob(tmp_path):
    (tmp_path / "report [final].txt").write_text("text")
    assert [path.name for path in find_files(tmp_path / "report [final].txt")] == ["report [final].txt"]


def test_files_of_the_same_name_are_told_apart(tmp_path):
    for folder in ("2023/uk", "2024/uk"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "report.txt").write_text(folder)
    (tmp_path / "other.txt").write_text("other")
    names = [node.metadata["file_name"] for node in load_corpus(tmp_path)]
    assert names == ["2023/uk/report.txt", "2024/uk/report.txt", "other.txt"]


def bad_files() -> dict[str, bytes]:
    good = draw_pdf(*(sentences(20, seed) for seed in range(4)))
    return {
        "empty.pdf": b"",
        "half.pdf": good[: len(good) // 2],
        "tail.pdf": good[:-40],
        "locked.pdf": draw_pdf("Secret text", encrypt=StandardEncryption("secret")),
        "scan.pdf": draw_pdf(draw_scan, draw_scan),
        "page.pdf": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "noise.pdf": random.Random(0).randbytes(5000),
        "broken.pdf": b"%PDF-1.7\n" + random.Random(0).randbytes(5000) + b"\n%%EOF\n",
        "sheet.xlsx": b"PK\x03\x04",
        "binary.txt": b"\x00\x01\x02text",
        "blank.txt": b" \n\t \n",
        "fake.docx": b"no zip archive",
        "zip.docx": (lambda b: (zipfile.ZipFile(b, "w").close(), b.getvalue())[1])(io.BytesIO()),
    }


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("empty.pdf", "is empty (0 bytes). Download"),
        ("half.pdf", "is cut off: the end of the PDF is missing. Download"),
        ("tail.pdf", "is cut off"),
        ("locked.pdf", "is encrypted. Save a copy without its password"),
        ("scan.pdf", "has no text on its 2 page(s), only images. Run OCR"),
        ("page.pdf", "is not a PDF but a web page"),
        ("noise.pdf", "is not a PDF but something else"),
        ("broken.pdf", "is damaged"),
        ("sheet.xlsx", "Convert it to PDF, TXT, MD, HTML or DOCX"),
        ("binary.txt", "is not a text file"),
        ("blank.txt", "holds no text"),
        ("fake.docx", "is not a Word document"),
        ("zip.docx", "is not a Word document"),
        ("missing.pdf", "There is no file or folder"),
        ("folder", "holds no PDF, TXT, MD, HTML or DOCX file"),
        ("*.nothing", "No PDF, TXT, MD, HTML or DOCX file matches"),
    ],
)
def test_bad_input_is_one_clear_sentence(tmp_path, name, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "image.png").write_bytes(b"x")
    if name in bad_files():
        (tmp_path / name).write_bytes(bad_files()[name])
    (tmp_path / "good.txt").write_text("A good file beside it.")
    with pytest.raises(UserError, match=re.escape(says)) as error:
        load_corpus([tmp_path / "good.txt", tmp_path / name])
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "says"), [([], "No files were given"), ([""], "file name is empty"), ("ftp://x.org/a.pdf", "only http")]
)
def test_bad_names(files, says):
    with pytest.raises(UserError, match=says):
        load_corpus(files)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(UserError, match=r"Cannot read .*a\.txt"):
        load_corpus(tmp_path / "a.txt")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_cut_pdf_is_refused_or_whole(tmp_path, share):
    data = draw_pdf(*(sentences(5, seed) for seed in range(5)))
    path = tmp_path / "cut.pdf"
    path.write_bytes(data[: int(share * len(data))])
    try:
        nodes = load_corpus(path)
    except UserError as error:
        assert "cut.pdf" in str(error)
    else:
        assert words(nodes) == Counter(" ".join(sentences(5, seed) for seed in range(5)).split())


def test_cut_update_and_cut_linearized_pdf(tmp_path):
    good = draw_pdf("First page", "Second page")
    (tmp_path / "junk.pdf").write_bytes(good + b"\r\n some trailing junk")
    assert len(load_corpus(tmp_path / "junk.pdf")) == 2
    header, _, rest = good.partition(b"\n")
    for name, data in {
        "update.pdf": good + b"\n7 0 obj\n<< /Type /Page >>\nendo",
        "linear.pdf": header + b"\n9 0 obj\n<< /Linearized 1 /L 99999 /H [ 5 6 ] >>\nendobj\n" + rest,
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name} is cut off"):
            load_corpus(tmp_path / name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), flips=st.integers(1, 200))
def test_a_corrupted_pdf_never_crashes(tmp_path, seed, flips):
    dice = random.Random(seed)
    data = bytearray(draw_pdf(*(sentences(5, page) for page in range(5)), pageCompression=seed % 2))
    for _ in range(flips):
        data[dice.randrange(len(data))] = dice.randrange(256)
    path = tmp_path / "odd.pdf"
    path.write_bytes(data)
    try:
        assert load_corpus(path)
    except UserError as error:
        assert "odd.pdf" in str(error)


# Chunks and ids


def test_chunk_size_is_the_size_of_the_text(tmp_path):
    path = tmp_path / f"{'long-name-' * 20}.txt"
    path.write_text(sentences(400))
    splitter = SentenceSplitter(chunk_size=128, chunk_overlap=25)
    nodes = load_corpus(path, chunk_size=128)
    assert [node.text for node in nodes] == splitter.split_text(sentences(400))
    sizes = [len(splitter._tokenizer(node.text)) for node in nodes]
    assert max(sizes) <= 128 and sorted(sizes)[len(sizes) // 2] > 90
    assert nodes[0].get_content(MetadataMode.EMBED) == nodes[0].text


@pytest.mark.parametrize(("chunk_size", "overlap"), [(1024, 200), (4096, 200), (512, 102), (256, 51), (16, 3)])
def test_overlap_scales_with_chunk_size(chunk_size, overlap):
    assert corpus._splitter(chunk_size, None, {}).chunk_overlap == overlap
    assert corpus._splitter(chunk_size, 7, {}).chunk_overlap == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"chunk_size": 5}, "chunk_size is 5"),
        ({"chunk_size": 100, "chunk_overlap": 100}, "chunk_overlap is 100"),
        ({"chunk_overlap": -1}, "chunk_overlap is -1"),
    ],
)
def test_sizes_out_of_range(report, options, says):
    with pytest.raises(UserError, match=says):
        load_corpus(report, **options)


def test_splitter_options_pass_through(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(sentences(8, seed) for seed in range(20)))
    nodes = load_corpus(tmp_path, chunk_size=256, chunk_overlap=0, paragraph_separator="\n")
    assert all(re.match(r"Item\d+x0 ", node.text) for node in nodes)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("aB3 .,\n;é漢😀-") | st.characters(codec="utf-8"), min_size=1, max_size=600),
    chunk_size=st.integers(16, 64),
)
def test_chunks_hold_all_text(tmp_path, text, chunk_size):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    whole = corpus._clean(corpus._decode(path, path.read_bytes())) if b"\0" not in path.read_bytes() else ""
    if not whole:
        with pytest.raises(UserError):
            load_corpus(path)
        return
    nodes = load_corpus(path, chunk_size=chunk_size, chunk_overlap=0)
    assert "".join("".join(node.text.split()) for node in nodes) == "".join(whole.split())
    assert all(node.text.strip() == node.text != "" for node in nodes)
    assert len({node.id_ for node in nodes}) == len(nodes)


def test_long_text_without_spaces(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 200_000 + " " + "0123456789abcdef" * 10_000)
    assert sum(len(node.text) for node in load_corpus(tmp_path, chunk_size=256, chunk_overlap=0)) == 360_001


def test_ids_come_from_the_text_alone(tmp_path, report):
    other = tmp_path / "elsewhere" / "renamed.pdf"
    other.parent.mkdir()
    other.write_bytes(report.read_bytes())
    assert [node.id_ for node in load_corpus(report)] == [node.id_ for node in load_corpus(other)]
    code = f"from nbutils.corpus.chunks import load_corpus; print([n.id_ for n in load_corpus({str(report)!r})])"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == str([node.id_ for node in load_corpus(report)])


def test_equal_chunks_have_distinct_ids(tmp_path):
    (tmp_path / "a.pdf").write_bytes(draw_pdf("Intentionally blank", "Something", "Intentionally blank"))
    nodes = load_corpus(tmp_path)
    assert nodes[0].text == nodes[2].text and len({node.id_ for node in nodes}) == 3
    (tmp_path / "b.pdf").write_bytes(draw_pdf("Intentionally blank"))
    assert load_corpus(tmp_path / "b.pdf")[0].id_ == nodes[0].id_


def test_relationships(report):
    nodes = load_corpus(report, chunk_size=128)
    for first, second in itertools.pairwise(nodes):
        same_page = first.metadata["page"] == second.metadata["page"]
        after = first.relationships.get(NodeRelationship.NEXT)
        assert (after is not None and after.node_id == second.id_) == same_page
        assert (NodeRelationship.PREVIOUS in second.relationships) == same_page
    assert {node.ref_doc_id for node in nodes} == {document.id_ for document in load_documents(report)}


def test_saved_corpus_round_trip(tmp_path, report):
    nodes = load_corpus(report, chunk_size=256)
    save_corpus(nodes, tmp_path / "out" / "corpus.json")
    save_corpus(load_corpus(report, chunk_size=256), tmp_path / "again.json")
    assert (tmp_path / "out" / "corpus.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    assert read_corpus(tmp_path / "again.json") == nodes
    assert set(json.loads((tmp_path / "again.json").read_text())[0]) == {"id", "text", "metadata"}
    assert str(tmp_path) not in (tmp_path / "again.json").read_text()


@pytest.mark.parametrize(
    "content", [None, "{", "{}", '[{"id": "a"}]', "[1]", '[{"id": "a", "text": 1, "metadata": 2}]']
)
def test_read_corpus_refuses_what_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / "corpus.json").write_text(content)
    with pytest.raises(UserError, match=r"corpus\.json.*01_build_corpus"):
        read_corpus(tmp_path / "corpus.json")


# Training and validation apart


def test_check_disjoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {"a.txt": "one", "b.txt": "two", "copy of a.txt": "one", "val/c.txt": "three"}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    Path("link.txt").symlink_to("b.txt")
    check_disjoint("a.txt", [])
    check_disjoint("a.txt", ["b.txt", "val"])
    check_disjoint(["https://example.org/a.pdf"], ["https://example.org/b.pdf", "a.txt"])
    for train, val, names in [
        ("a.txt", tmp_path / "a.txt", ["a.txt"]),
        ("a.txt", "*.txt", ["a.txt"]),
        ("a.txt", "copy of a.txt", ["a.txt and copy of a.txt"]),
        (["val/c.txt", "b.txt"], "link.txt", ["b.txt and link.txt"]),
        (["a.txt", "val"], ["b.txt", "val/c.txt"], ["val/c.txt"]),
        ("https://example.org/a.pdf", "https://example.org/a.pdf", ["https://example.org/a.pdf"]),
    ]:
        with pytest.raises(UserError, match="The same file is given for training and for validation") as error:
            check_disjoint(train, val)
        assert all(name in str(error.value) for name in names)


def pages_of(nodes) -> set:
    return {(node.metadata["file_name"], node.metadata.get("page")) for node in nodes}


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=30), min_size=1, max_size=4),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_split_shares_no_page_and_no_text(chunks, share, seed):
    nodes = corpus._nodes(
        (f"text {number % 50}", {"file_name": f"{file}.pdf", "page_label": str(page), "page": page})
        for file, pages in enumerate(chunks)
        for page, count in enumerate(pages, 1)
        for number in [random.Random(f"{file} {page} {i}").randrange(10**6) for i in range(count)]
    )
    try:
        train, validation = split_corpus(nodes, share, seed=seed)
    except UserError:
        assert len(pages_of(nodes)) < 2 or len({node.text for node in nodes}) < len(nodes)
        return
    assert train and validation
    assert len(pages_of(nodes)) == 1 or not pages_of(train) & pages_of(validation)
    assert not {node.text for node in train} & {node.text for node in validation}
    order = {node.id_: i for i, node in enumerate(nodes)}
    assert [order[n.id_] for n in train] == sorted(order[n.id_] for n in train)
    assert [order[n.id_] for n in validation] == sorted(order[n.id_] for n in validation)
    left_out = [node for node in nodes if node not in train and node not in validation]
    assert all(node.text in {v.text for v in validation} for node in left_out)
    assert split_corpus(nodes, share, seed=seed) == (train, validation)


def test_split_share_and_blocks(report):
    nodes = load_corpus(report, chunk_size=128)
    parts = [split_corpus(nodes, 0.3, seed=seed) for seed in range(10)]
    assert all(0.2 <= len(validation) / len(nodes) <= 0.4 for _, validation in parts)
    assert all(len(train) + len(validation) == len(nodes) for train, validation in parts)
    assert len({frozenset(pages_of(validation)) for _, validation in parts}) > 3


def test_split_of_a_text_without_pages_leaves_no_shared_sentence(tmp_path):
    (tmp_path / "a.txt").write_text(sentences(600))
    nodes = load_corpus(tmp_path, chunk_size=128, chunk_overlap=60)
    for seed in range(5):
        train, validation = split_corpus(nodes, 0.3, seed=seed)
        items = [set(re.findall(r"Item\w+", " ".join(node.text for node in part))) for part in (train, validation)]
        assert not items[0] & items[1]
        assert len(train) > 0.5 * len(nodes) and len(validation) > 0.2 * len(nodes)


@pytest.mark.parametrize("share", [0, 1, -0.2, 30, float("nan")])
def test_split_refuses_odd_shares(report, share):
    with pytest.raises(UserError, match="validation_share"):
        split_corpus(load_corpus(report), share)


def test_a_single_page_is_split_by_its_chunks(tmp_path):
    (tmp_path / "a.pdf").write_bytes(draw_pdf(sentences(60)))
    nodes = load_corpus(tmp_path, chunk_size=64, chunk_overlap=20)
    train, validation = split_corpus(nodes)
    assert min(len(train), len(validation)) >= 2 and len(train) + len(validation) >= len(nodes) - 4
    items = [set(re.findall(r"Item\w+", " ".join(node.text for node in part))) for part in (train, validation)]
    assert not items[0] & items[1]


@pytest.mark.parametrize("seed", range(6))
def test_a_long_page_beside_a_short_one_is_trained_on(tmp_path, seed):
    (tmp_path / "a.pdf").write_bytes(draw_pdf(sentences(60), sentences(6)))
    train, validation = split_corpus(load_corpus(tmp_path, chunk_size=64), seed=seed)
    assert pages_of(train) == {("a.pdf", 1)} and pages_of(validation) == {("a.pdf", 2)}


def test_split_refuses_a_single_chunk(tmp_path):
    (tmp_path / "a.pdf").write_bytes(draw_pdf("One sentence alone."))
    with pytest.raises(UserError, match=r"1 chunk\(s\) of text, too few"):
        split_corpus(load_corpus(tmp_path))


def test_a_pdf_with_the_ending_of_a_text_is_read_as_a_pdf(tmp_path):
    (tmp_path / "a.txt").write_bytes(draw_pdf("The harbour report"))
    assert load_documents(tmp_path / "a.txt")[0].text == "The harbour report"


# What the model will see


@pytest.fixture(scope="module")
def tokenizer():
    from nbutils.models.names import load_tokenizer, packaged_model

    if packaged_model() is None:
        pytest.skip("the packaged model is not installed")
    return load_tokenizer("all-MiniLM-L6-v2")


def test_corpus_summary_counts_what_truncation_cuts(tmp_path, report, tokenizer):
    (tmp_path / "notes.md").write_text("A short note.")
    nodes = load_corpus(tmp_path)
    table = corpus_summary(nodes, "all-MiniLM-L6-v2", 128)
    kept = sum(len(ids) - 2 for ids in tokenizer([n.text for n in nodes], truncation=True, max_length=128)["input_ids"])
    row = table.loc["all"]
    assert list(table.index) == ["notes.md", "report.pdf", "all"]
    assert row["tokens"] == chunk_lengths(nodes, tokenizer).sum() == sum(len(tokenizer.tokenize(n.text)) for n in nodes)
    assert row["tokens"] - row["tokens_unseen"] == kept
    assert row["share_unseen"] == pytest.approx(1 - kept / row["tokens"])
    assert (row["chunks"], row["pages"], row["words"]) == (len(nodes), 11, sum(len(n.text.split()) for n in nodes))
    assert table.loc["notes.md", "chunks_cut"] == 0 and table.loc["report.pdf", "chunks_cut"] > 0
    assert corpus_summary(nodes, tokenizer, 100_000).loc["all", "share_unseen"] == 0


def test_chunk_lengths_of_nothing(tokenizer):
    assert len(chunk_lengths([], tokenizer)) == 0
    assert corpus_summary([], tokenizer, 256).loc["all", "chunks"] == 0


# Downloads


class Server(http.server.BaseHTTPRequestHandler):
    PDF = draw_pdf("A downloaded report")

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        times = self.server.asked.count(path)
        if path == "/flaky.pdf" and times < 3:
            return self.answer(b"busy", status=503)
        if path == "/short.pdf":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.PDF)))
            self.end_headers()
            self.wfile.write(self.PDF[:500])
            return None
        if path == "/hang.pdf":
            self.server.stopping.wait(5)
            return None
        if path == "/endless.pdf":
            self.send_response(200)
            self.end_headers()
            for _ in range(2000):
                self.wfile.write(b"%PDF-" + b"x" * 10_000)
            return None
        pages = {
            "/report.pdf": (self.PDF, "application/pdf"),
            "/flaky.pdf": (self.PDF, "application/octet-stream"),
            "/download": (self.PDF, "application/pdf"),
            "/notes.txt": (b"Some notes", "text/plain"),
            "/page": (b"<html><p>A web page</p></html>", "text/html; charset=utf-8"),
            "/login.pdf": (b"<!DOCTYPE html><html>Log in</html>", "text/html"),
            "/login.txt": (b"<!DOCTYPE html><html>Log in</html>", "text/html"),
            "/word.docx": (draw_docx("A letter"), "application/octet-stream"),
            "/image.png": (b"\x89PNG", "image/png"),
            "/empty.pdf": (b"", "application/pdf"),
        }
        if path in pages:
            return self.answer(*pages[path])
        return self.answer(b"<html>nothing here</html>", "text/html", 404)

    def answer(self, body, content_type="text/plain", status=200):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.asked, server.stopping = [], threading.Event()
        server.handle_error = lambda *_: None
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.stopping.set()
        server.shutdown()


def test_download_once(server, tmp_path):
    url = f"{server.url}/report.pdf"
    nodes = load_corpus([url], download_folder=tmp_path)
    assert [node.text for node in nodes] == ["A downloaded report"]
    assert load_corpus(url, download_folder=tmp_path) == nodes
    assert server.asked == ["/report.pdf"]
    assert re.fullmatch(r"report-\w{10}\.pdf", nodes[0].metadata["file_name"])
    assert [path.name for path in tmp_path.iterdir()] == [nodes[0].metadata["file_name"]]
    other = download(f"{url}?version=2", tmp_path)
    assert other.name != nodes[0].metadata["file_name"] and len(server.asked) == 2


def test_downloads_count_for_check_disjoint(server, tmp_path):
    url = f"{server.url}/report.pdf"
    check_disjoint(url, f"{url}?again", download_folder=tmp_path)
    load_corpus([url, f"{url}?again"], download_folder=tmp_path)
    with pytest.raises(UserError, match=re.escape(f"{url} and {url}?again")):
        check_disjoint(url, f"{url}?again", download_folder=tmp_path)


@pytest.mark.parametrize(
    ("path", "suffix"), [("download", ".pdf"), ("page", ".html"), ("notes.txt", ".txt"), ("word.docx", ".docx")]
)
def test_download_names_what_came(server, tmp_path, path, suffix):
    file = download(f"{server.url}/{path}", tmp_path)
    assert file.suffix == suffix and load_corpus(file)
    assert download(f"{server.url}/{path}", tmp_path) == file and len(server.asked) == 1


def test_download_tries_again(server, tmp_path):
    assert download(f"{server.url}/flaky.pdf", tmp_path, backoff=0.01).read_bytes() == Server.PDF
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("path", "says", "requests"),
    [
        ("missing.pdf", "the server answers 404 Not Found. Check the address", 1),
        ("short.pdf", "the connection failed", 2),
        ("flaky.pdf", "the server answers 503", 2),
        ("hang.pdf", "no answer within 0.3 seconds", 2),
        ("login.pdf", "sent a web page, not a PDF file", 1),
        ("login.txt", "sent a web page, not a TXT file", 1),
        ("image.png", "sent something else, not a PDF, TXT, MD, HTML OR DOCX file", 1),
        ("empty.pdf", "sent an empty file", 1),
        ("report.pdf", "is larger than 0.001 MB. Raise max_megabytes", 1),
        ("endless.pdf", "is larger than 0.001 MB", 1),
    ],
)
def test_a_failed_download_leaves_nothing(server, tmp_path, path, says, requests):
    limit = 0.001 if "0.001" in says else 1
    with pytest.raises(UserError, match=re.escape(says)) as error:
        download(f"{server.url}/{path}", tmp_path, max_megabytes=limit, timeout=0.3, retries=1, backoff=0.01)
    assert f"{server.url}/{path}" in str(error.value)
    assert not list(tmp_path.iterdir())
    assert len(server.asked) == requests


def test_unreachable_server(tmp_path):
    with pytest.raises(UserError, match=r"Cannot download .*/a\.pdf: the connection failed"):
        download("http://127.0.0.1:9/a.pdf", tmp_path, retries=1, backoff=0.01)
    with pytest.raises(UserError, match="Cannot download http://"):
        download("http://:80/a.pdf", tmp_path, retries=0)


# Against SimpleDirectoryReader


def test_same_words_as_simple_directory_reader(report):
    from llama_index.core import SimpleDirectoryReader

    theirs = SimpleDirectoryReader(input_files=[report]).load_data()
    ours = load_documents(report)
    assert len(ours) == len(theirs) and words(ours) == words(theirs)
    assert [d.metadata["page_label"] for d in ours] == [d.metadata["page_label"] for d in theirs]


@needs_filings
def test_same_words_as_simple_directory_reader_on_a_filing():
    from llama_index.core import SimpleDirectoryReader

    path = next(FILINGS.glob("JOHNSON_JOHNSON_2023_8K*.pdf"))
    theirs, ours = words(SimpleDirectoryReader(input_files=[path]).load_data()), words(load_documents(path))
    assert (theirs & ours).total() > 0.999 * max(theirs.total(), ours.total())


@needs_filings
def test_no_page_of_a_filing_falls_apart_into_letters():
    for document in load_documents(FILINGS / "NETFLIX_2022_10K.pdf"):
        words = document.text.split()
        assert len(words) < 20 or sum(len(word) == 1 for word in words) < 0.5 * len(words)
