"""What a document is called, and which section a place in it belongs to."""

import bisect
import ctypes
import html
import itertools
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

Section = tuple[int, str]  # where it begins on its page, heading


class Line(NamedTuple):
    """A line of a PDF page: its text, the height and weight of its first letter, and whether its last is like it."""

    page: int
    text: str
    height: float
    bold: bool
    even: bool


def usable_title(title: str | None) -> str:
    """Return a title that a reader would recognise, or "": no number, no file name, nothing a program puts there."""
    title = " ".join((title or "").split())
    if re.match(r"(microsoft|powerpoint|untitled|document ?\d*$|title$|slide \d|about:|https?:)", title, re.IGNORECASE):
        return ""
    if re.search(r"\.[a-z]{2,5}$", title, re.IGNORECASE) and not title.endswith((".com", ".org", ".net")):
        return ""
    is_name = " " not in title and re.search(r"[\d_]", title)
    if is_name or sum(letter.isalpha() for letter in title) < max(2, len(title) / 4):
        return ""
    return title[:150]


def section_at(sections: list[Section], position: int) -> str:
    """Return the heading under which a place on a page stands, or ""."""
    number = bisect.bisect_right(sections, position, key=lambda section: section[0])
    return sections[number - 1][1] if number else ""


def locate(texts: list[str], headings: list[tuple[int, str]]) -> list[list[Section]]:
    """Return for each page's text where its sections begin; the first goes on from the page before.

    Headings come with their pages (from 0), in reading order. One that begins no line begins with its page.
    """
    located, current = [], ""
    for page, text in enumerate(texts):
        sections: list[Section] = [(0, current)] if current else []
        position = 0
        for heading in (heading for place, heading in headings if place == page and heading):
            words = r"\s+".join(map(re.escape, heading.split()))
            match = re.compile(rf"^[^\w\n]*{words}", re.MULTILINE | re.IGNORECASE).search(text, position)
            position = match.end() if match else position
            sections.append((match.start() if match else position, heading))
            current = heading
        located.append(sections)
    return located


def markdown_headings(text: str) -> list[str]:
    """Return the headings of a Markdown text, underlined ones too, but for front matter and lines of code."""
    text = re.sub(r"\A---\n.*?^---$|^[ \t]*(`{3,}|~{3,}).*?^[ \t]*\1", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.finditer(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*$|^(\S.*)\n(?:=+|-{3,})$", text, re.MULTILINE)
    return [match[1] or match[2] for match in found]


def docx_title(path: Path) -> str:
    """Return the title in a Word document's properties."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower() == "docprops/core.xml"]
        properties = archive.read(names[0]).decode("utf-8", "replace") if names else ""
    found = re.search(r"<dc:title[^>]*>([^<]*)<", properties)
    return html.unescape(found[1]) if found else ""


# PDF


def text_and_lines(page, number: int) -> tuple[str, list[Line]]:
    """Return the text of pypdfium2's page, and its lines with the look of their type."""
    text_page = page.get_textpage()
    text = text_page.get_text_range()
    lines, position = [], 0  # which counts letters beyond the basic plane twice, as PDFium does
    for line in text.split("\n"):
        if shown := line.strip():
            first = position + line.index(shown[0])
            position += sum(letter > "\uffff" for letter in line)
            last = position + line.rindex(shown[-1])
            look = _look(text_page, first)
            lines.append(Line(number, shown, *look, look == _look(text_page, last)))
        position += len(line) + 1
    return text, lines


def _look(text_page, letter: int) -> tuple[float, bool]:
    """Return the height of a letter's line in points, and whether it is bold."""
    import pypdfium2.raw as pdfium

    box, name, flags = pdfium.FS_RECTF(), ctypes.create_string_buffer(64), ctypes.c_int()
    pdfium.FPDFText_GetLooseCharBox(text_page, letter, box)
    pdfium.FPDFText_GetFontInfo(text_page, letter, name, len(name), flags)
    heavy = re.search(rb"bold|black|heavy", name.value.lower())
    return round(box.top - box.bottom, 1), bool(heavy) or pdfium.FPDFText_GetFontWeight(text_page, letter) >= 600


def pdf_outline(pdf, lines: list[Line]) -> tuple[str, list[tuple[int, str]]]:
    """Return a PDF's title and its headings with their pages: its bookmarks, or what stands out among its lines."""
    bookmarks = []
    for mark in pdf.get_toc():
        place, name = mark.get_dest(), mark.get_title().strip()
        page = place.get_index() if place else None
        if page is not None and re.search(r"[^\W\d_]{2}", name) and not re.fullmatch(r"page \w+", name, re.IGNORECASE):
            bookmarks.append((page, name))
    letters = Counter()
    for line in lines:
        letters[line.height, line.bold] += len(line.text)
    body = letters.most_common(1)[0][0] if letters else (0.0, False)
    title = usable_title(pdf.get_metadata_value("Title")) or usable_title(_largest(lines, body[0]))
    return title, bookmarks if len(bookmarks) > 1 else _standing_out(lines, body, len(pdf))


_LARGER = 1.12


def _largest(lines: list[Line], body: float) -> str:
    """Return the text in the largest type on the first page, or "" where none is larger than the body's."""
    first = [line for line in lines if line.page == 0 and sum(map(str.isalpha, line.text)) > 2]
    groups = [(height, list(group)) for height, group in itertools.groupby(first, lambda line: line.height)]
    height, group = max(groups, key=lambda group: group[0], default=(0, []))
    return " ".join(line.text for line in group[:3]) if height >= _LARGER * body else ""


def _standing_out(lines: list[Line], body: tuple[float, bool], pages: int) -> list[tuple[int, str]]:
    """Return the lines that are larger or bolder than the body, with their pages; none where they are too few.

    Left out are headers of every page, table rows (more than a fifth digits), sentences and blocks of three lines.
    """
    often = Counter(re.sub(r"\d+", "0", line.text) for line in lines)
    found = []
    for (page, height, bold), group in itertools.groupby(lines, lambda line: (line.page, line.height, line.bold)):
        if not (height >= _LARGER * body[0] or (bold and not body[1] and height >= 0.95 * body[0])):
            continue
        block = list(group)
        text = " ".join(line.text for line in block)
        again = max(often[re.sub(r"\d+", "0", line.text)] for line in block) > max(3, pages / 10)
        letters, digits = sum(map(str.isalpha, text)), sum(map(str.isdigit, text))
        is_phrase = text[0].isalnum() and not text[0].islower() and text[-1] not in ".,;:" and 4 <= len(text) <= 100
        is_words = letters >= 0.6 * len(text.replace(" ", "")) and digits <= 0.2 * len(text)
        if len(block) < 3 and all(line.even for line in block) and is_phrase and is_words and not again:
            found.append((page, text))
    return found if len({page for page, _ in found}) >= pages / 5 else []
