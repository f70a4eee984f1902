"""Render the sample reports from Markdown to PDF: those in this folder, and those of library_sources/ into library/.

    python data/sample/render.py [names...]     # default: every .md in both folders except README.md

The first level-one heading and the paragraphs before the first ``##`` become
the cover page, a table of contents follows, and a line that is only ``---``
starts a new page. Streams are left uncompressed and dates are fixed, so that
the same Markdown gives the same bytes everywhere. Needs reportlab and
markdown-it-py.
"""

import argparse
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import letter
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import inch
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.platypus import (
    BaseDocTemplate,
    Frame,
    LongTable,
    NextPageTemplate,
    PageBreak,
    PageTemplate,
    Paragraph,
    Spacer,
)
from reportlab.platypus.tableofcontents import TableOfContents

HERE = Path(__file__).resolve().parent
FOLDERS = {HERE: HERE, HERE / "library_sources": HERE / "library"}  # Markdown -> PDF
MARGIN = 1.05 * inch
WIDTH = letter[0] - 2 * MARGIN
INK, GREY = HexColor("#1c2f45"), HexColor("#8a8f98")


def style(name, size, leading, font="Times-Roman", **extra):
    return ParagraphStyle(name, fontName=font, fontSize=size, leading=leading, **extra)


BODY = style("body", 11, 15.2, spaceAfter=8)
BULLET = style("bullet", 11, 15.2, spaceAfter=4, leftIndent=20, bulletIndent=8)
TITLE = style("title", 25, 31, "Times-Bold", alignment=1, textColor=INK, spaceBefore=90, spaceAfter=30)
COVER = style("cover", 11.5, 16, alignment=1, spaceAfter=12)
CONTENTS = style("contents", 15, 20, "Times-Bold", textColor=INK, spaceAfter=12)
CELL = {"left": style("cell", 9.2, 11.4), "right": style("cell-right", 9.2, 11.4, alignment=2)}
HEADINGS = {
    "h2": style("h2", 15, 19, "Times-Bold", textColor=INK, spaceBefore=14, spaceAfter=8, keepWithNext=1),
    "h3": style("h3", 12.2, 16, "Times-Bold", textColor=INK, spaceBefore=9, spaceAfter=5, keepWithNext=1),
    "h4": style("h4", 11, 15, "Times-BoldItalic", spaceBefore=6, spaceAfter=4, keepWithNext=1),
}


class Report(BaseDocTemplate):
    """A document that lists its h2 and h3 headings in the table of contents."""

    def afterFlowable(self, flowable):
        level = {"h2": 0, "h3": 1}.get(getattr(getattr(flowable, "style", None), "name", ""))
        if level is not None:
            self.notify("TOCEntry", (level, escape(flowable.getPlainText()), self.page))


def markup(node):
    """The reportlab paragraph markup of an inline node."""
    if node.type in ("text", "code_inline"):
        node.content.encode("cp1252")  # the standard fonts hold nothing else
        return escape(node.content)
    if node.type in ("softbreak", "hardbreak"):
        return " " if node.type == "softbreak" else "<br/>"
    tag = {"strong": "b", "em": "i"}.get(node.type)
    inner = "".join(markup(child) for child in node.children)
    return f"<{tag}>{inner}</{tag}>" if tag else inner


def table(node):
    rows, header = [], node.children[0].children[0]
    for tr in [row for part in node.children for row in part.children]:
        rows.append(
            [(markup(cell), "right" if "right" in str(cell.attrs.get("style")) else "left") for cell in tr.children]
        )
    plain = [[text.replace("<b>", "").replace("</b>", "") for text, _ in row] for row in rows]
    measure = [
        [[stringWidth(word, "Times-Bold", 9.2) for word in (text, *text.split())] or [0] for text in row]
        for row in plain
    ]
    natural = [max(row[i][0] for row in measure) + 12 for i in range(len(header.children))]
    least = [max(max(row[i][1:] or [0]) for row in measure) + 12 for i in range(len(natural))]
    spare = WIDTH - sum(natural)
    if spare >= 0:
        widths = [natural[0] + spare, *natural[1:]]
    else:
        share = (WIDTH - sum(least)) / (sum(natural) - sum(least))
        widths = [low + share * (full - low) for low, full in zip(least, natural, strict=False)]
    cells = [
        [Paragraph(f"<b>{text}</b>" if i == 0 else text, CELL[side]) for text, side in row]
        for i, row in enumerate(rows)
    ]
    rules = [
        ("LINEBELOW", (0, 0), (-1, 0), 0.8, INK),
        ("LINEBELOW", (0, 1), (-1, -1), 0.25, GREY),
        ("VALIGN", (0, 0), (-1, -1), "BOTTOM"),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
    ]
    return LongTable(cells, widths, repeatRows=1, style=rules, spaceBefore=4, spaceAfter=11)


def story(tree):
    """The flowables of a parsed report, and the company name from its first heading."""
    toc = TableOfContents(
        dotsMinLevel=0, levelStyles=[style("t0", 10.5, 13.5, spaceBefore=3), style("t1", 9.5, 11.8, leftIndent=16)]
    )
    company, flow, on_cover = "", [], True
    for node in tree.children:
        if on_cover and node.type == "heading" and node.tag == "h2":
            on_cover = False
            flow += [NextPageTemplate("body"), PageBreak(), Paragraph("Table of Contents", CONTENTS), toc, PageBreak()]
        if node.type == "heading" and node.tag == "h1":
            company = company or node.children[0].content
            flow.append(Paragraph(markup(node), TITLE))
        elif node.type == "heading":
            flow.append(Paragraph(markup(node), HEADINGS[node.tag]))
        elif node.type == "paragraph":
            flow.append(Paragraph(markup(node), COVER if on_cover else BODY))
        elif node.type in ("bullet_list", "ordered_list"):
            for number, item in enumerate(node.children, 1):
                mark = "\u2022" if node.type == "bullet_list" else f"{number}."
                flow += [Paragraph(markup(child), BULLET, bulletText=mark) for child in item.children]
            flow.append(Spacer(1, 5))
        elif node.type == "table":
            flow.append(table(node))
        elif node.type == "hr" and not on_cover:
            flow.append(PageBreak())
    return flow, company


def render(source, target):
    tree = SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(source.read_text(encoding="utf-8")))
    flow, company = story(tree)

    def furniture(canvas, doc):
        canvas.setStrokeColor(INK)
        canvas.setLineWidth(0.6)
        canvas.line(MARGIN, letter[1] - 0.8 * inch, letter[0] - MARGIN, letter[1] - 0.8 * inch)
        canvas.setFont("Times-Roman", 9)
        canvas.drawString(MARGIN, 0.6 * inch, company)
        canvas.drawRightString(letter[0] - MARGIN, 0.6 * inch, str(doc.page))

    frame = [Frame(MARGIN, 0.9 * inch, WIDTH, letter[1] - 1.8 * inch, 0, 0, 0, 0)]
    doc = Report(str(target), pagesize=letter, invariant=1, pageCompression=0, title=company, author=company)
    doc.addPageTemplates([PageTemplate("cover", frame), PageTemplate("body", frame, onPage=furniture)])
    doc.multiBuild(flow)


def main():
    parser = argparse.ArgumentParser(description="Render the sample reports to PDF.")
    parser.add_argument("names", nargs="*", help="report names, without .md (default: all)")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where the PDFs go (default: data/sample/ and data/sample/library/)"
    )
    options = parser.parse_args()
    reports = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.md")) if path.stem != "README"}
    names = [name.removesuffix(".md") for name in options.names] or list(reports)
    if missing := [name for name in names if name not in reports]:
        sys.exit(f"render.py: no such report in {HERE}: " + ", ".join(f"{name}.md" for name in missing))
    for name in names:
        target = options.to or FOLDERS[reports[name].parent]
        render(reports[name], target / f"{name}.pdf")
        print(f"{name}.pdf")


if __name__ == "__main__":
    main()
