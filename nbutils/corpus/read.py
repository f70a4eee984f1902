"""From a file to the text of its pages: PDF, HTML, DOCX, Markdown and plain text."""

import codecs
import hashlib
import importlib.metadata
import io
import itertools
import re
import unicodedata
import warnings
import zipfile
from pathlib import Path

from nbutils.core import UserError, content_hash, first_line, remember
from nbutils.corpus import outline

SUFFIXES = (".pdf", ".txt", ".text", ".md", ".markdown", ".html", ".htm", ".docx")
KNOWN = "PDF, TXT, MD, HTML or DOCX"
Page = tuple[str | None, dict, list[outline.Section]]  # text (None where the page is damaged), metadata, sections


def read_pages(path: Path, cache: str | Path | None = None) -> list[Page]:
    """Return the pages of a PDF, or the whole file as one page; what was read is kept in the folder `cache`.

    The metadata are `page` and `page_label` (PDF), and `title` where one is known. A UserError says why a file cannot be
    read, or that it holds no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Check the file and its permissions.") from error
    versions = [importlib.metadata.version(package) for package in ("pypdfium2", "beautifulsoup4", "mammoth")]
    code = [Path(module).read_text(encoding="utf-8") for module in (__file__, outline.__file__)]
    digest = hashlib.sha256(data).hexdigest()
    key = content_hash(*code, *versions, path.suffix.lower(), digest, length=32)
    read = remember(cache, f"pages-{key}", lambda: _read(path, data))
    if read["guessed"]:
        warnings.warn(f"{path.name} does not say its encoding; it was read as {read['guessed']}.", stacklevel=2)
    return [tuple(page) for page in read["pages"]]


def _read(path: Path, data: bytes) -> dict:
    """Return the `pages` of a file, and the encoding that was `guessed`, if one was."""
    if not data:
        raise UserError(f"{path} is empty (0 bytes). Download or copy it again.")
    suffix, title, headings, guessed = path.suffix.lower(), "", [], None
    if suffix == ".pdf" or data.startswith(b"%PDF-"):
        return {"pages": _read_pdf(path, data), "guessed": None}
    if suffix == ".docx":
        text, _, headings = _html_text(_docx_html(path))
        title = outline.docx_title(path)
    elif suffix in (".html", ".htm"):
        page, guessed = decoded(path, data, is_page=True)
        text, title, headings = _html_text(page)
    else:
        text, guessed = decoded(path, data)
        text = clean(_DATA_URL.sub("", text))
        headings = outline.markdown_headings(text) if suffix in (".md", ".markdown") else []
    text = clean(text)
    if not text:
        raise UserError(f"{path} holds no text. Remove it from the files or replace it.")
    title = outline.usable_title(title) or outline.usable_title(clean(next(iter(headings), "")))
    [sections] = outline.locate([text], [(0, heading) for heading in map(clean, headings)])
    return {"pages": [(text, {"title": title} if title else {}, sections)], "guessed": guessed}


# PDF


def _read_pdf(path: Path, data: bytes) -> list[Page]:
    import pypdfium2 as pdfium

    if b"%PDF-" not in data[:1024]:
        kind = "a web page" if is_html(data) else "something else"
        raise UserError(f"{path} is not a PDF but {kind} with that name. Download the PDF itself or rename the file.")
    if _is_cut_off(data):
        raise UserError(f"{path} is cut off: the end of the PDF is missing. Download or copy it again.")
    try:
        pdf = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if error.err_code in (pdfium.raw.FPDF_ERR_PASSWORD, pdfium.raw.FPDF_ERR_SECURITY):
            raise UserError(f"{path} is encrypted. Save a copy without its password and use that.") from error
        raise UserError(f"{path} is damaged: no page can be read. Download or copy it again.") from error
    with pdf:
        if pdf.get_formtype() == pdfium.raw.FORMTYPE_XFA_FULL:
            raise UserError(f"{path} is an XFA form, for Adobe Reader alone. Print it to a PDF there and use that.")
        if pdf.get_formtype() != pdfium.raw.FORMTYPE_NONE:
            pdf.init_forms()
        pages = [_page_text(pdf, number) for number in range(len(pdf))]
        labels = [pdf.get_page_label(number) or str(number + 1) for number in range(len(pdf))]
        title, headings = outline.pdf_outline(pdf, [line for _, lines in pages for line in lines])
    raw = [text for text, _ in pages]
    if all(text is None for text in raw):
        raise UserError(f"{path} is damaged: no page can be read. Download or copy it again.")
    texts = [clean(text) for text in _join_hyphens([text or "" for text in raw])]
    if not any(texts):
        advice = "Run OCR on it first, for example `ocrmypdf IN.pdf OUT.pdf`."
        raise UserError(f"{path} has no text on its {len(texts)} page(s), only images. {advice}")
    sections = outline.locate(texts, [(page, clean(heading)) for page, heading in headings])
    known = {"title": clean(title)} if title else {}
    return [
        (None if raw[page] is None else texts[page], {"page_label": label, "page": page + 1} | known, sections[page])
        for page, label in enumerate(labels)
    ]


def _page_text(pdf, number: int) -> tuple[str | None, list[outline.Line]]:
    """Return the text of one page (None where it is damaged), with form fields and typed remarks, and its lines."""
    import pypdfium2 as pdfium

    try:
        page = pdf[number]
        if pdfium.raw.FPDFPage_GetAnnotCount(page):
            # Fields and remarks become text, which is seen when the page is opened again.
            pdfium.raw.FPDFPage_Flatten(page, pdfium.raw.FLAT_NORMALDISPLAY)
            page.close()
            page = pdf[number]
        text, lines = outline.text_and_lines(page, number)
        if text.count("\n") * 12 > len(text):
            # pdfium takes some sparse tables for vertical writing and puts every letter on its own line. It judges by
            # what lies inside the page's box, so with a box of one point it reads lines from left to right.
            page.set_mediabox(0, 0, 1, 1)
            page.set_cropbox(0, 0, 1, 1)
            page.close()
            again = outline.text_and_lines(pdf[number], number)
            text, lines = min((text, lines), again, key=lambda version: version[0].count("\n"))
    except pdfium.PdfiumError:
        return None, []
    return text, lines


def _is_cut_off(data: bytes) -> bool:
    """Whether a PDF is shorter than it says, has no end mark, or goes on with objects after the last one."""
    length = re.search(rb"/Linearized\b.{0,200}?/L\s+(\d+)", data[:2048], re.DOTALL)
    if length and int(length[1]) > len(data):
        return True
    end = data.rfind(b"%%EOF")
    if end < 0:
        return not re.search(rb"startxref\s+\d+\s*%{0,2}\w{0,3}\s*$", data[-64:])
    return bool(re.search(rb"\d \d+ obj\b", data[end:]))


_HYPHEN = "\ufffe"  # pdfium's mark for a hyphen at the end of a line, which it joins with the next


def _join_hyphens(texts: list[str]) -> list[str]:
    """Put back the hyphens that end a line, except inside words that the document writes only without one elsewhere."""
    if not any(_HYPHEN in text for text in texts):
        return texts
    everything = "\n".join(texts).lower()
    words = set(re.findall(r"\w+", everything))
    hyphenated = set(re.findall(r"([^\W\d_]+)-(?=([^\W\d_]+))", everything))

    def joint(before: str, after: str) -> str:
        before = re.search(r"[^\W\d_]*$", before[-40:].lower())[0]
        after = re.match(r"[^\W\d_]*", after[:40].lower())[0]
        known = before + after in words and (before, after) not in hyphenated
        return "" if known and min(len(before), len(after)) > 1 else "-"

    joined = []
    for text in texts:
        parts = text.split(_HYPHEN)
        joined.append("".join(part + joint(part, after) for part, after in itertools.pairwise(parts)) + parts[-1])
    return joined


# Characters

_DATA_URL = re.compile(
    r"data:image/svg\+xml[^,\n]*,\s*<svg.*?</svg>|data:[\w.+/-]+(?:;[\w=.+-]+)*"
    r"(?:;base64,[\w+/=-]+(?:\s+[A-Za-z0-9+/=]{60,})*|,[^\s)\"'<>]{40,})",
    re.DOTALL,
)
_SOFT_BREAK = re.compile("\xad[ \t]*\r?\n[ \t]*")
_LEADERS = re.compile(r"[ \t]?(?:[._·․‥…⋯•∙⋅・．][ \t]{0,3}){4,}")  # of contents pages, and lines to write on
_FORMS = re.compile("[\ufb00-\ufdff\ufe70-\ufefc]+")  # ligatures, and Hebrew and Arabic letters as they look in a word
_ODD = dict.fromkeys([*range(32), *range(0x7F, 0xA0), *range(0xD800, 0xE000), 0xAD, 0x200B, 0x2060, 0xFEFF, 0xFFFF])
_ODD |= dict.fromkeys([0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])  # marks of direction
_ODD |= dict.fromkeys([0x0A, 0x0B, 0x0C, 0x85, 0x2028, 0x2029], "\n") | dict.fromkeys([0xA0, 0x2007, 0x202F], " ")
_ODD |= {ord("\t"): "\t", ord(_HYPHEN): "-", 0x2010: "-", 0x2011: "-", 0xF0B7: "•", 0xF0A7: "•"}  # Symbol's bullets


def clean(text: str) -> str:
    """Return the same words with plain line ends, spaces and letters, without control characters and leader dots."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _SOFT_BREAK.sub("", text).translate(_ODD)
    text = _FORMS.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _LEADERS.sub(" … ", unicodedata.normalize("NFC", text))
    return re.sub(r"[ \t]+\n", "\n", text).strip()


def decoded(path: Path, data: bytes, is_page: bool = False) -> tuple[str, str | None]:
    """Return the text of a file, and its encoding where neither the file nor UTF-8 tells it, so that it is guessed."""
    from bs4.dammit import EncodingDetector

    data, marked = EncodingDetector.strip_byte_order_mark(data)
    if marked:
        return data.decode(marked, "replace"), None
    if unmarked := _utf16(data):
        return data.decode(unmarked, "replace"), None
    if b"\0" in data:
        if not is_page:
            raise UserError(f"{path} is not a text file. Convert it to {KNOWN}.")
        data = data.replace(b"\0", b"")
    declared = EncodingDetector.find_declared_encoding(data, is_html=True) if is_page else None
    for encoding in ("iso2022_jp" if b"\x1b$" in data else "utf-8", codec(declared or "utf-8")):
        try:
            return data.decode(encoding), None
        except (UnicodeDecodeError, LookupError):
            pass
    text = data.decode("utf-8", "replace")
    if 10 * text.count("\ufffd") < sum(letter > "\x7f" for letter in text):
        return text, None  # UTF-8 of which a few bytes are broken
    encoding = _guess(data)
    return data.decode(encoding, "replace"), encoding


def codec(name: str) -> str:
    """Return the encoding that browsers take for a declared one: Latin-1 means Windows-1252."""
    return "cp1252" if name.lower() in ("iso-8859-1", "latin1", "us-ascii", "ascii") else name


def _utf16(data: bytes) -> str | None:
    """Return the byte order of a text in UTF-16 without a mark: by its control bytes, which no other text has."""
    from charset_normalizer import from_bytes

    sample = data[:20_000]
    share = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in sample) / len(sample)
    is_utf8 = "\ufffd" not in data.decode("utf-8", "replace")
    if len(data) < 32 or share < (0.2 if is_utf8 else 0.02):
        return None
    found = from_bytes(sample[: len(sample) // 2 * 2], cp_isolation=["utf_16_le", "utf_16_be"]).best()
    return found.encoding if found else None


def _guess(data: bytes) -> str:
    """Return the encoding in which a text reads best."""
    from charset_normalizer import from_bytes

    pages = "cp1252 cp1250 cp1251 cp1255 koi8_r cp1253 cp1254 cp1256 cp866 euc_kr gb18030 big5 euc_jp shift_jis cp874"
    candidates = pages.split()
    # A name or a price in an English text tells nothing about languages: that is what Windows writes.
    few = len(set(re.findall(rb"\S*[\x80-\xff]\S*", data))) < 4 and sum(byte > 127 for byte in data) < len(data) / 4
    found = [] if few else from_bytes(data, cp_isolation=candidates)
    ranked = sorted(found, key=lambda match: (match.chaos, -match.coherence, candidates.index(match.encoding)))
    return ranked[0].encoding if ranked else "cp1252"


# HTML and DOCX

_APART = re.compile(
    "^(address|article|aside|blockquote|body|br|button|caption|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form"
    "|h[1-6]|header|hr|label|legend|li|main|nav|ol|optgroup|option|p|pre|section|select|summary|table|title|tr|ul)$"
)


def _html_text(page: str) -> tuple[str, str, list[str]]:
    """Return the visible text of a web page, one line per block element or table row, its title and its headings."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(page, "html.parser")
    for tag in soup(["script", "style", "noscript", "template", "ix:header"]):  # the last: XBRL's data about a filing
        tag.decompose()
    for text in [text for tag in soup(["pre", "textarea"]) for text in tag.find_all(string=True)]:
        text.replace_with(text.replace("\n", "\0"))
    for tag in soup("input"):
        shown = tag.get("type", "text").lower() in ("text", "number", "email", "tel", "date")
        tag.insert_before(f" {tag.get('value', '')} " if shown else " ")
    for cell in soup(["td", "th"]):
        for tag in cell(_APART) if not cell.find("table") else ():  # a cell with a table in it is layout
            tag.insert_before(" ")
            if tag.name != "tr":
                tag.unwrap()
        cell.insert_before("\1")
    for tag in soup(_APART):
        tag.insert_before("\0")
        tag.insert_after("\0")
    lines = _SOFT_BREAK.sub("", soup.get_text()).split("\0")
    rows = (filter(None, (" ".join(cell.split()) for cell in line.split("\1"))) for line in lines)
    headings = [_SOFT_BREAK.sub("", tag.get_text()).replace("\0", " ") for tag in soup(re.compile("^h[1-6]$"))]
    title = soup.title.get_text() if soup.title else ""
    return "\n".join(filter(None, map(" | ".join, rows))), title, [" ".join(heading.split()) for heading in headings]


# What mammoth passes over with the words in it: simple fields, ruby, directions, equations.
_WRAPPER = re.compile(rb"<(/?)(?:w:(?:fldSimple|ruby|rubyBase|dir|bdo)|m:(?![rt][ />])\w+)\b")


def _docx_html(path: Path) -> str:
    import mammoth

    def html(left_out: tuple[str, ...] = ()) -> str:
        copy = io.BytesIO()
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as parts:
            for name in archive.namelist():
                part = archive.read(name) if name.endswith((".xml", ".rels")) else b""
                part = part.replace(b"<m:den>", b"<w:r><w:t>/</w:t></w:r><m:den>")
                part = re.sub(rb"<(/?)m:([rt])\b", rb"<\1w:\2", _WRAPPER.sub(rb"<\1w:smartTag", part))
                if not name.endswith(left_out):
                    parts.writestr(name, part)
        return mammoth.convert_to_html(copy, convert_image=mammoth.images.img_element(lambda _: {})).value

    try:
        try:
            page = html()
        except KeyError:  # an attribute is missing where styles or lists are described
            page = html(("styles.xml", "numbering.xml"))
        return re.sub(r" *<a [^>]*>↑</a>", "", page)  # the way back from a footnote
    except Exception as error:  # zip files, XML and relations can be wrong in many ways
        advice = "Open it in a word processor and save it again."
        raise UserError(f"{path} is not a Word document (.docx): {first_line(error)}. {advice}") from error


def is_html(data: bytes) -> bool:
    """Whether data begins as a web page does."""
    start = data[:4096].removeprefix(codecs.BOM_UTF8)
    return bool(re.match(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)", start, re.I | re.S))
