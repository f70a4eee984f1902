"""Reading one file."""

import io
import os
import random
import re
import unicodedata
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from documents import draw_docx, draw_pdf, draw_scan, sentences, words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reportlab.lib.pdfencrypt import StandardEncryption

from nbutils.core import UserError
from nbutils.corpus.chunks import load_corpus, load_documents
from nbutils.corpus.read import _join_hyphens, clean

FILINGS = Path(__file__).parents[3] / "shared" / "data" / "filings"
needs_filings = pytest.mark.skipif(not FILINGS.is_dir(), reason="the shared filings are not on this machine")


def test_pdf_is_one_document_a_page(report):
    documents = load_documents(report)
    assert [d.metadata for d in documents] == [
        {"file_name": "report.pdf", "page_label": str(n), "page": n} for n in range(1, 11)
    ]
    assert [d.text.split() for d in documents] == [sentences(30, seed).split() for seed in range(10)]


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


def test_damaged_pages_are_told(tmp_path):
    data = draw_pdf("First page", "Second page", "Third page", pageCompression=0)
    kids = re.search(rb"/Kids \[ *(\d+) 0 R (\d+) 0 R", data)
    page = re.search(rb"\n" + kids[2] + rb" 0 obj\n<<.*?>>\nendobj", data, re.DOTALL)
    (tmp_path / "a.pdf").write_bytes(data.replace(page[0], page[0].replace(b"/Type /Page", b"/Type /Pear")))
    left_out = []
    with pytest.warns(UserWarning, match="pages were left out"):
        texts = [document.text for document in load_documents(tmp_path / "a.pdf", left_out=left_out)]
    assert texts == ["First page", "", "Third page"] and left_out == ["a.pdf is damaged on page 2 of 3."]


def test_what_was_left_out_is_named_without_its_folder(tmp_path):
    for folder, text in {"a": "text", "b": " "}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "report.txt").write_text(text)
    left_out = []
    with pytest.warns(UserWarning, match="1 of 2 files"):
        load_documents(tmp_path, left_out=left_out)
    assert len(left_out) == 1 and left_out[0].startswith("b/report.txt holds no text")


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("net\xa0income \n\u200bof\xad 5\x00", "net income\nof 5"),
        ("\ufeffstart\x0cend\ud800", "start\nend"),
        ("naïve café – “quoted” 5 % ﬁ €", "naïve café – “quoted” 5 % fi €"),
        ("a  \n\nb", "a\n\nb"),
        ("Die Versi\xad\n  cherung", "Die Versicherung"),
        ("Item 7. Risks . . . . . . . 12\nItem 8 ........ 34", "Item 7. Risks … 12\nItem 8 … 34"),
        ("Signed: ________ today", "Signed: … today"),
        ("and so on... 1.2.3.4.5", "and so on... 1.2.3.4.5"),
        ("Risks .  .  .  . 12\n目次・・・・・12\nA • • • • • 3", "Risks … 12\n目次 … 12\nA … 3"),
        ("a\u2028b \u200ec\u202a \uf0b7 d", "a\nb c • d"),
        ("Ver\xad\r\nsicherung \ufee3\ufeae", "Versicherung \u0645\u0631"),
    ],
)
def test_clean(raw, cleaned):
    assert clean(raw) == cleaned


@given(st.text(st.characters(codec="utf-8") | st.sampled_from(" \n.\xad_·\t\ufb01")))
def test_what_is_clean_is_not_changed_again(text):
    assert clean(clean(text)) == clean(text)


@given(st.text(st.characters(codec="utf-8", categories=["Lu", "Ll", "Lo", "Nd", "So"]) | st.sampled_from(" \n")))
def test_clean_keeps_letters_digits_and_symbols(text):
    assert unicodedata.normalize("NFKC", clean(text)).split() == unicodedata.normalize("NFKC", text).split()


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
    assert _join_hyphens(texts) == joined


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
        "e.HTML": "T\nOne paragraph here\nnow\n1 | 2\n& more",
        "f.docx": "First paragraph\nSecond & last",
    }


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
        load_corpus([tmp_path / "good.txt", tmp_path / name], on_unreadable="fail")
    assert name in str(error.value) and "\n" not in str(error.value)


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


@pytest.mark.slow
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


def test_a_pdf_with_the_ending_of_a_text_is_read_as_a_pdf(tmp_path):
    (tmp_path / "a.txt").write_bytes(draw_pdf("The harbour report"))
    assert load_documents(tmp_path / "a.txt")[0].text == "The harbour report"


@pytest.mark.slow
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


@pytest.mark.slow
@needs_filings
def test_no_page_of_a_filing_falls_apart_into_letters():
    for document in load_documents(FILINGS / "NETFLIX_2022_10K.pdf"):
        words = document.text.split()
        assert len(words) < 20 or sum(len(word) == 1 for word in words) < 0.5 * len(words)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Le café déjà fermé à Noël coûte cher. " * 4),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy. " * 3),
        ("cp1251", "Утренний паром ходит каждый час. " * 4),
        ("koi8_r", "Утренний паром ходит каждый час. " * 4),
        ("cp1253", "Η τιμή του εισιτηρίου αυξήθηκε πέντε τοις εκατό. " * 4),
        ("shift_jis", "朝のフェリーは毎時出ています。" * 5),
        ("euc_jp", "朝のフェリーは毎時出ています。" * 5),
        ("gb18030", "早晨的渡轮每小时一班，周日停航。" * 5),
        ("big5", "早晨的渡輪每小時一班，週日停航。" * 5),
        ("euc_kr", "아침 여객선은 매시간 떠납니다. " * 5),
        ("cp1255", "מחיר הכרטיס למעבורת עלה בחמישה אחוזים. " * 4),
        ("cp866", "Утренний паром ходит каждый час. " * 4),
        ("cp874", "ราคาตั๋วเรือข้ามฟากเพิ่มขึ้นห้าเปอร์เซ็นต์ " * 4),
        ("cp1252", "The fare is 9 € for each of the passengers."),
    ],
)
def test_an_encoding_is_guessed_and_said(tmp_path, encoding, text):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.warns(UserWarning, match=r"a\.txt does not say its encoding"):
        assert load_documents(tmp_path / "a.txt")[0].text == text.strip()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        "公司今年提高了渡轮票价，旅客减少。董事会批准了分红。\n二〇二四年收入增长。",
        "株式会社は今年、フェリーの運賃を値上げした。乗客は減少した。",
        "회사는 올해 여객선 요금을 인상했다. 승객은 줄었다.",
        "Компания повысила тарифы на паром на 12 процентов.",
        "บริษัทขึ้นค่าโดยสารเรือข้ามฟาก",
        "We raised the ferry’s fares by 12 %.\n" * 3,
    ],
)
def test_utf_16_without_a_mark(tmp_path, encoding, text):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_corpus(tmp_path / "a.txt")[0].text == text.strip()


@pytest.mark.parametrize("size", [64, 1000, 5000])
def test_noise_is_no_utf_16(tmp_path, size):
    (tmp_path / "a.txt").write_bytes(b"\0" + random.Random(size).randbytes(size))
    with pytest.raises(UserError, match="not a text file"):
        load_corpus(tmp_path / "a.txt")


def test_a_guessed_encoding_is_said_also_when_the_text_comes_from_the_cache(tmp_path):
    (tmp_path / "a.txt").write_bytes("Le café a été rénové.".encode("cp1252"))
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"a\.txt does not say its encoding"):
            load_corpus(tmp_path / "a.txt", cache=tmp_path / "cache")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
def test_wide_encodings_in_every_format(tmp_path, encoding, name):
    if encoding == "utf-32" and name == "a.html":
        pytest.skip("browsers do not read it either")
    (tmp_path / name).write_bytes("<p>The ferry costs nine crowns</p>".encode(encoding))
    assert "The ferry costs nine crowns" in load_documents(tmp_path / name)[0].text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Die Überfahrt nach Göteborg kostet für alle fünf Kronen mehr.".encode() * 9 + b"\xff", "Die Überfahrt nach"),
        ("朝のフェリーは毎時出ています。".encode("iso2022_jp"), "朝のフェリーは毎時出ています。"),
    ],
)
def test_what_is_nearly_utf_8_and_mail_s_japanese_are_not_guessed(tmp_path, data, text):
    (tmp_path / "a.txt").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_documents(tmp_path / "a.txt")[0].text.startswith(text)


def test_latin_1_of_a_web_page_is_windows_1252(tmp_path):
    (tmp_path / "a.html").write_bytes(b'<meta charset="ISO-8859-1"><p>the \x93best\x94 caf\xe9')
    assert load_documents(tmp_path / "a.html")[0].text == "the “best” café"


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        ("<div><ix:header><ix:hidden>0001318605</ix:hidden></ix:header></div><p>Revenue rose.", ["Revenue rose."]),
        (
            "<table><tr><td>Revenue<td><td>$<td>1,141<tr><td>Costs<td><td>$<td>9",
            ["Revenue | $ | 1,141", "Costs | $ | 9"],
        ),
        ("<table><tr><td><p>One</p><p>Two</p><table><tr><td>Lund<td>9</table></table>", ["One", "Two", "Lund | 9"]),
        ("<pre>Lund  9\nOslo  12</pre>", ["Lund 9", "Oslo 12"]),
        ("<p>Versi&shy;\n  cherung", ["Versicherung"]),
        ("<p>Name: <input value='Okonkwo'><input type=hidden value=7>", ["Name: Okonkwo"]),
    ],
)
def test_web_pages(tmp_path, page, lines):
    (tmp_path / "a.html").write_text(page)
    assert load_documents(tmp_path / "a.html")[0].text.split("\n") == lines


def test_html_says_its_own_encoding(tmp_path):
    (tmp_path / "a.html").write_bytes('<meta charset="windows-1251"><p>Паром ушёл'.encode("cp1251"))
    assert load_documents(tmp_path / "a.html")[0].text == "Паром ушёл"


def test_rows_of_html_tables_stay_rows_and_controls_stay_apart(tmp_path):
    (tmp_path / "a.html").write_text(
        "<table>\n<tr>\n\t<th>Port</th>\n\t<th>Fare</th></tr><tr><td><p>Lund</p><p>east</p></td><td>9</td></tr></table>"
        "<p>H<sub>2</sub>O and <em>e</em><sup>2</sup></p><select><option>Adult</option><option>Child</option></select><button>Buy</button><button>Cancel</button>"
    )
    assert load_documents(tmp_path / "a.html")[0].text.split("\n") == [
        "Port | Fare", "Lund east | 9", "H2O and e2", "Adult", "Child", "Buy", "Cancel"
    ]  # fmt: skip


def docx_of(body: str, main: str = "word/document.xml", **parts: str) -> bytes:
    """A Word file with this body, a main part of this name, and further parts beside it."""
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    word = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    word += ' xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    word += ' xmlns:v="urn:schemas-microsoft-com:vml" xmlns:wps="urn:shape"'
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    files = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
        f'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/{main}" '
        f'ContentType="{kind}.document.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="{main}"/></Relationships>',
        main: f"<w:document {word}><w:body>{body}</w:body></w:document>",
        f"word/_rels/{Path(main).name}.rels": f'<Relationships xmlns="{package}/relationships">'
        + "".join(f'<Relationship Id="{p}" Type="{office}/{p}" Target="{p}.xml"/>' for p in parts)
        + "</Relationships>",
        **{f"word/{name}.xml": f"<w:{name} {word}>{content}</w:{name}>" for name, content in parts.items()},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def paragraph(*runs: str) -> str:
    return "<w:p>" + "".join(f"<w:r>{run}</w:r>" for run in runs) + "</w:p>"


BOX = paragraph("<w:t>In a box</w:t>")
WORD_FILES = {
    "another main part": (docx_of(paragraph("<w:t>Nine crowns</w:t>"), main="word/document2.xml"), ["Nine crowns"]),
    "hyphens": (
        docx_of(paragraph("<w:t>Pages 1</w:t><w:noBreakHyphen/><w:t>24 of the in</w:t><w:softHyphen/><w:t>surance</w:t>")),
        ["Pages 1-24 of the insurance"],
    ),
    "table": (
        docx_of(
            "<w:tbl>"
            + "".join(
                "<w:tr>" + "".join(f"<w:tc>{paragraph(f'<w:t>{cell}</w:t>')}</w:tc>" for cell in row) + "</w:tr>"
                for row in (("Lund", "9"), ("Oslo", "12"))
            )
            + "</w:tbl>"
        ),
        ["Lund | 9", "Oslo | 12"],
    ),
    "footnote": (
        docx_of(
            paragraph("<w:t>The fare</w:t>", '<w:footnoteReference w:id="2"/>'),
            footnotes=f'<w:footnote w:id="2">{paragraph("<w:t>Without tax</w:t>")}</w:footnote>',
        ),
        ["The fare[1]", "Without tax"],
    ),
    "words in wrappers": (  # simple fields, ruby and equations
        docx_of(
            "<w:p><w:r><w:t>See page </w:t></w:r><w:fldSimple w:instr='PAGEREF x'><w:r><w:t>12</w:t></w:r></w:fldSimple>"
            "<w:r><w:t>: </w:t></w:r><m:oMath xmlns:m='urn:math'><m:r><m:t>E=m</m:t></m:r><m:sSup><m:e><m:r><m:t>c</m:t>"
            "</m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup><m:f><m:num><m:r><m:t>k</m:t></m:r></m:num><m:den>"
            "<m:r><m:t>n</m:t></m:r></m:den></m:f></m:oMath><w:r><w:ruby><w:rt><w:r><w:t>kan</w:t></w:r></w:rt><w:rubyBase>"
            "<w:r><w:t>漢</w:t></w:r></w:rubyBase></w:ruby></w:r></w:p>"
        ),
        ["See page 12: E=mc2k/n漢"],
    ),
    "styles and lists without attributes": (
        docx_of(
            paragraph("<w:t>Nine crowns</w:t>"),
            styles="<w:style w:styleId='x'><w:name w:val='X'/></w:style>",
            numbering="<w:abstractNum w:abstractNumId='0'><w:lvl w:ilvl='0'><w:numFmt/></w:lvl></w:abstractNum>",
        ),
        ["Nine crowns"],
    ),
    "text box": (
        docx_of(
            "<w:p><w:r><mc:AlternateContent><mc:Choice Requires='wps'><wps:txbx><w:txbxContent>" + BOX
            + "</w:txbxContent></wps:txbx></mc:Choice><mc:Fallback><w:pict><v:shape><v:textbox><w:txbxContent>" + BOX
            + "</w:txbxContent></v:textbox></v:shape></w:pict></mc:Fallback></mc:AlternateContent></w:r></w:p>"
        ),
        ["In a box"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WORD_FILES)
def test_word_files(tmp_path, kind):
    data, lines = WORD_FILES[kind]
    (tmp_path / "a.docx").write_bytes(data)
    assert load_documents(tmp_path / "a.docx")[0].text.split("\n") == lines


def test_values_of_form_fields_are_read(tmp_path):
    def form(pdf):
        pdf.drawString(72, 700, "Applicant:")
        pdf.acroForm.textfield(name="n", value="Okonkwo", x=200, y=690, width=200, height=20)
        pdf.acroForm.textfield(name="m", value="Lund", x=200, y=650, width=200, height=20)

    (tmp_path / "a.pdf").write_bytes(draw_pdf(form, "Another page"))
    first, second = load_documents(tmp_path / "a.pdf")
    assert "Okonkwo" in first.text and "Lund" in first.text and second.text == "Another page"


def test_pictures_inside_markdown_are_left_out(tmp_path):
    picture = "iVBORw0KGgo" * 20_000
    (tmp_path / "a.md").write_text(
        f"Before ![map](data:image/png;base64,{picture}) after\n\n[r]: data:image/svg+xml;charset=utf-8;base64,{picture}\n"
        f'<img src="data:image/png;base64,{picture}">\n![d](data:image/svg+xml;utf8,<svg width="9">{"<path/>" * 99}</svg>)\nend'
    )
    text = load_documents(tmp_path / "a.md")[0].text
    assert len(text) < 100 and all(word in text for word in ("Before ![map]", "after", "end"))


def test_letters_beyond_the_basic_plane(tmp_path):
    (tmp_path / "a.txt").write_text("Crossing 🚢 𠮷野 and done", encoding="utf-8")
    assert load_documents(tmp_path / "a.txt")[0].text == "Crossing 🚢 𠮷野 and done"


@pytest.mark.slow
@needs_filings
@pytest.mark.parametrize("name", ["NETFLIX_2022_10K.pdf", "COSTCO_2022_10K.pdf"])
def test_no_line_of_a_filing_is_made_of_dots(name):
    lines = [line for document in load_documents(FILINGS / name) for line in document.text.split("\n")]
    assert not [line for line in lines if line.count(".") > len(line) / 4 and len(line) > 8]


def raw_pdf(content: bytes, *objects: bytes, fonts: bytes = b"/F1 5 0 R", page: bytes = b"") -> bytes:
    """A PDF of one page with this content; `objects` are numbered from 6 on."""
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R %s /Resources << /Font << %s >> >> >>"
        % (page, fonts), stream(content), b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold >>", *objects,
    )  # fmt: skip
    data, places = b"%PDF-1.7\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"xref\n0 %d\n0000000000 65535 f \n%%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%%%%%EOF\n" % (
        len(objects) + 1, len(objects) + 1, len(data),
    ) % table  # fmt: skip
    return data


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), entries, content)


def test_a_remark_typed_into_a_pdf_is_read(tmp_path):
    shown = b"/Type /XObject /Subtype /Form /BBox [0 0 200 20] /Resources << /Font << /F1 5 0 R >> >>"
    data = raw_pdf(
        b"BT /F1 12 Tf 72 700 Td (The body) Tj ET",
        b"<< /Type /Annot /Subtype /FreeText /Rect [72 500 272 520] /DA (/F1 10 Tf) /F 4 /AP << /N 7 0 R >> >>",
        stream(b"BT /F1 10 Tf 2 5 Td (A typed remark) Tj ET", shown),
        page=b"/Annots [6 0 R]",
    )
    (tmp_path / "a.pdf").write_bytes(data)
    assert load_documents(tmp_path / "a.pdf")[0].text == "The body\nA typed remark"


def test_a_heading_after_letters_beyond_the_basic_plane_is_found(tmp_path):
    codes = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00> <FF> endcodespacerange "
        b"1 beginbfchar <78> <D835DC65> endbfchar 1 beginbfrange <20> <77> <0020> endbfrange endcmap end end"
    )
    data = raw_pdf(
        b"BT /F2 10 Tf 72 700 Td (xxxxxxxxxxxxxxxxxxxx) Tj 0 -14 Td (Plain words of the body) Tj ET "
        b"BT /F1 16 Tf 72 640 Td (Costs of fuel) Tj ET BT /F2 10 Tf 72 620 Td (Fuel cost nine crowns) Tj ET",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding /ToUnicode 7 0 R >>",
        stream(codes),
        fonts=b"/F1 5 0 R /F2 6 0 R",
    )
    (tmp_path / "a.pdf").write_bytes(data)
    node = load_corpus(tmp_path / "a.pdf", chunk_size=16, chunk_overlap=0)[-1]
    assert node.text.endswith("cost nine crowns") and node.metadata["section"] == "Costs of fuel"
