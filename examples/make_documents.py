#!/usr/bin/env python3
"""Makes the PDF and DOCX files of the example corpus from the texts in `sources/`.

    python3 -m venv venv && venv/bin/pip install -r examples/requirements.txt
    venv/bin/python examples/make_documents.py          # writes examples/docs/*.pdf and *.docx
    venv/bin/python examples/make_documents.py --check  # exit 1 if a committed file is out of date

The same sources give the same bytes: dates are fixed and nothing is taken from the machine.

A source is plain text, one paragraph a line: `# ` title, `## ` heading, `- ` list item, `---` new page (PDF).
"""

import argparse
import datetime
import io
import sys
import zipfile
from pathlib import Path
from typing import Iterator, NamedTuple
from xml.sax.saxutils import escape

import docx
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import ListFlowable, ListItem, PageBreak, Paragraph, SimpleDocTemplate

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "sources"
TARGET = HERE / "docs"
PDFS = ("limits-guide", "operations-guide", "security-guide")
DOCXS = ("client-checklist", "glossary", "guarantees")
AUTHOR = "The Raglan authors"
DATE = datetime.datetime(2026, 11, 2, 9, 0, 0)


class Line(NamedTuple):
    """One paragraph of a source: its kind (`title`, `heading`, `item`, `text`, `break`) and its text."""

    kind: str
    text: str


MARKS = (("## ", "heading"), ("# ", "title"), ("- ", "item"))


def read_source(name: str) -> Iterator[Line]:
    for line in (SOURCES / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        if line.strip() == "---":
            yield Line("break", "")
            continue
        for mark, kind in MARKS:
            if line.startswith(mark):
                yield Line(kind, line.removeprefix(mark))
                break
        else:
            yield Line("text", line)


def title_of(lines: list[Line]) -> str:
    return next(line.text for line in lines if line.kind == "title")


def make_pdf(lines: list[Line]) -> bytes:
    body = ParagraphStyle("body", fontName="Helvetica", fontSize=10.5, leading=14.5, spaceAfter=6)
    styles = {
        "title": ParagraphStyle("title", fontName="Helvetica-Bold", fontSize=20, leading=26, spaceAfter=10),
        "heading": ParagraphStyle("heading", fontName="Helvetica-Bold", fontSize=13, leading=17, spaceBefore=8, spaceAfter=4),
        "text": body,
    }
    story = []
    items: list[ListItem] = []
    for line in [*lines, Line("end", "")]:
        if line.kind == "item":
            items.append(ListItem(Paragraph(escape(line.text), body)))
            continue
        if items:
            story.append(ListFlowable(items, bulletType="bullet"))
            items = []
        if line.kind == "break":
            story.append(PageBreak())
        elif line.kind != "end":
            story.append(Paragraph(escape(line.text), styles[line.kind]))

    def number(canvas, document) -> None:
        canvas.setFont("Helvetica", 9)
        canvas.drawCentredString(A4[0] / 2, 12 * mm, str(document.page))

    out = io.BytesIO()
    # `invariant` fixes the dates and the file id that would differ from run to run.
    SimpleDocTemplate(
        out, pagesize=A4, title=title_of(lines), author=AUTHOR, invariant=1,
        leftMargin=24 * mm, rightMargin=24 * mm, topMargin=20 * mm, bottomMargin=22 * mm,
    ).build(story, onFirstPage=number, onLaterPages=number)
    return out.getvalue()


def make_docx(lines: list[Line]) -> bytes:
    document = docx.Document()
    properties = document.core_properties
    properties.title = title_of(lines)
    properties.author = properties.last_modified_by = AUTHOR
    properties.comments = ""
    properties.created = properties.modified = DATE
    properties.revision = 1
    for line in lines:
        if line.kind == "title":
            document.add_heading(line.text, level=0)
        elif line.kind == "heading":
            document.add_heading(line.text, level=1)
        elif line.kind == "item":
            document.add_paragraph(line.text, style="List Bullet")
        elif line.kind == "text":
            document.add_paragraph(line.text)
    raw = io.BytesIO()
    document.save(raw)
    return with_fixed_times(raw)


def with_fixed_times(raw: io.BytesIO) -> bytes:
    """The same archive with one date on every member: a zip file records when each was written."""
    out = io.BytesIO()
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            info = zipfile.ZipInfo(member.filename, date_time=DATE.timetuple()[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            info.create_system = 3
            target.writestr(info, source.read(member))
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    check = parser.parse_args().check
    made = {f"{name}.pdf": make_pdf(list(read_source(name))) for name in PDFS}
    made |= {f"{name}.docx": make_docx(list(read_source(name))) for name in DOCXS}
    stale = False
    for name, data in made.items():
        path = TARGET / name
        if path.exists() and path.read_bytes() == data:
            print(f"{path.relative_to(HERE.parent)}: up to date")
        elif check:
            print(f"{path.relative_to(HERE.parent)}: out of date", file=sys.stderr)
            stale = True
        else:
            path.write_bytes(data)
            print(f"{path.relative_to(HERE.parent)}: written, {len(data)} bytes")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
