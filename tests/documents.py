"""Documents drawn for tests."""

import io
import zipfile
from collections import Counter

from PIL import Image
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen import canvas


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
