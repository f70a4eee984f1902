"""Checks on the sample reports: size, variety, figures, rendering and gold questions."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

pdfium = pytest.importorskip("pypdfium2")

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
REPORTS = ("norvane_2024", "brackwater_2024")
LIBRARY = ("norvane_2023", "brackwater_2023", "audelle_2023")


def page_texts(path):
    document = pdfium.PdfDocument(path)
    try:
        return [page.get_textpage().get_text_range() for page in document]
    finally:
        document.close()


@pytest.fixture(scope="module")
def pages():
    return {name: page_texts(pdf(name)) for name in (*REPORTS, *LIBRARY)}


def pdf(name):
    return SAMPLE / ("library" if name in LIBRARY else "") / f"{name}.pdf"


def lines(name):
    return (SAMPLE / f"{name}.md").read_text(encoding="utf-8").splitlines()


def shingles(name, size=8):
    """Every run of ``size`` words in the prose of a report; tables are left out."""
    prose = " ".join(line for line in lines(name) if not line.startswith("|"))
    words = re.findall(r"\w+", prose.lower())
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def row(name, pattern):
    """The numbers of the first table row whose label matches ``pattern`` in full."""
    for line in lines(name):
        label, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if cells and re.fullmatch(pattern, label, re.IGNORECASE):
            return [float(cell.strip("$ ").replace(",", "")) for cell in cells]
    raise AssertionError(f"{name}: no table row labelled {pattern!r}")


def collapsed(text):
    return " ".join(text.split())


@pytest.mark.parametrize("name", REPORTS)
def test_report_is_long_enough(pages, name):
    assert len(pages[name]) >= 35
    words = [word for text in pages[name] for word in text.split() if re.search(r"\w", word)]
    assert len(words) >= 15_000


@pytest.mark.parametrize("name", REPORTS)
def test_report_hardly_repeats_itself(name):
    runs = shingles(name)
    assert len(set(runs)) / len(runs) > 0.93


def test_reports_share_almost_no_sentences():
    first, second = (set(shingles(name)) for name in REPORTS)
    assert len(first & second) / min(len(first), len(second)) < 0.01


@pytest.mark.parametrize("name", REPORTS)
def test_balance_sheet_balances(name):
    assets = row(name, "total assets")
    assert assets == row(name, r"total liabilities and (\S+ )?equity")
    liabilities = row(name, "total liabilities")
    equity = row(name, r"total (\S+ )?equity")
    assert [a + b for a, b in zip(liabilities, equity, strict=False)] == pytest.approx(assets)


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTS + LIBRARY)
def test_pdf_is_what_the_markdown_renders_to(tmp_path, name):
    pytest.importorskip("reportlab", reason="reportlab renders the sample PDFs")
    pytest.importorskip("markdown_it", reason="markdown-it-py parses the sample reports")
    subprocess.run([sys.executable, SAMPLE / "render.py", name, "--to", tmp_path], check=True, capture_output=True)
    assert (tmp_path / f"{name}.pdf").read_bytes() == pdf(name).read_bytes()


def test_render_names_a_missing_report():
    pytest.importorskip("reportlab", reason="reportlab renders the sample PDFs")
    pytest.importorskip("markdown_it", reason="markdown-it-py parses the sample reports")
    result = subprocess.run([sys.executable, SAMPLE / "render.py", "no_such_report"], capture_output=True, text=True)
    assert result.returncode != 0
    assert "no_such_report.md" in result.stderr


def gold_rows(name):
    with open(pdf(name).with_name("gold_questions.csv"), encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["file"] == f"{name}.pdf"]


@pytest.mark.parametrize("name", REPORTS + LIBRARY)
def test_gold_questions_are_many_and_distinct(name):
    rows = gold_rows(name)
    assert list(rows[0]) == ["question", "file", "pages", "quote", "answer"]
    assert len(rows) >= (100 if name in REPORTS else 15)
    assert len({collapsed(r["question"]).lower() for r in rows}) == len(rows)
    assert all(r["answer"].strip() for r in rows)


@pytest.mark.parametrize("name", REPORTS + LIBRARY)
def test_gold_quotes_stand_on_the_pages_named(pages, name):
    texts = [collapsed(text) for text in pages[name]]
    astray = []
    for r in gold_rows(name):
        numbers = [int(number) for number in r["pages"].split(";")]
        named = [texts[n - 1] for n in numbers if 1 <= n <= len(texts)]
        quote = collapsed(r["quote"])
        if len(named) < len(numbers) or not quote or not any(quote in text for text in named):
            astray.append(r["question"])
    assert not astray


def test_training_queries_are_distinct_kinds_with_quotes_on_their_page_and_no_gold_question(pages):
    with open(SAMPLE / "training_questions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 900 and {r["kind"] for r in rows} == {"everyday", "precise", "keywords"}
    for r in rows:
        text = collapsed(pages[r["file"].removesuffix(".pdf")][int(r["page"]) - 1])
        assert collapsed(r["quote"]) in text, r["question"]
    asked = {collapsed(r["question"]).lower() for r in rows}
    assert len(asked) > 0.99 * len(rows)
    assert not asked & {collapsed(r["question"]).lower() for name in REPORTS for r in gold_rows(name)}


@pytest.mark.parametrize("earlier, later", [("norvane_2023", "norvane_2024"), ("brackwater_2023", "brackwater_2024")])
def test_passages_of_the_library_come_again_a_year_later_with_other_numbers(pages, earlier, later):
    def runs(name, words):
        found = re.findall(words, " ".join(pages[name]))
        return {tuple(found[i : i + 8]) for i in range(len(found) - 7)}

    words, with_numbers = r"[^\W\d]+", r"\w+"
    both = len(runs(earlier, words) & runs(later, words)) / len(runs(earlier, words))
    same = len(runs(earlier, with_numbers) & runs(later, with_numbers)) / len(runs(earlier, with_numbers))
    assert both > 0.25 and same < both


def test_the_library_is_indexed_as_a_folder_with_titles_and_sections():
    from nbutils.corpus.chunks import load_corpus

    nodes = load_corpus(str(SAMPLE / "library"), chunk_size=256, header=["file", "section"])
    assert {node.metadata["file_name"] for node in nodes} == {f"{name}.pdf" for name in LIBRARY}
    assert all(node.metadata["title"] for node in nodes)
    headers = {node.metadata["header"] for node in nodes}
    assert {"norvane 2023 · Customers", "brackwater 2023 · Fuel", "audelle 2023 · What we do"} <= headers
