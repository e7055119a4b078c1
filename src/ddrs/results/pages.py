"""Markdown tables and figures as pages that a browser shows."""

import re
from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path

from markdown_it import MarkdownIt

from ddrs.errors import DdrsError
from ddrs.files import read_text, require, write_text

STYLE = """
body { font: 14px/1.5 sans-serif; margin: 2em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1.5em 0; }
th, td { padding: 0.25em 0.7em; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #222; }
td.number { text-align: right; }
p { max-width: 60em; }
img { max-width: 100%; }
"""


def write_page(md: Path, html: Path, picture: Path | None = None) -> None:
    """Write one Markdown file as one HTML page that needs no other file, below a PNG if there is one. DdrsError if one can not be used."""
    text = read_text(md, "Markdown file")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r"<td>(?=-?[0-9.]+</td>)", '<td class="number">', body)
    if picture is not None:
        data = b64encode(read_png(picture, "picture")).decode()
        body = f'<img alt="{escape(md.stem)}" src="data:image/png;base64,{data}">\n{body}'
    head = f'<meta charset="utf-8">\n<title>{escape(md.stem)}</title>\n<style>{STYLE}</style>'
    write_text(html, f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}</body>\n</html>\n')


def read_png(path: Path, what: str) -> bytes:
    """The bytes of a PNG. DdrsError if there is none, or it is damaged: its chunks are checked, not each pixel."""
    from PIL import Image

    data = require(path, what).read_bytes()
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            image.verify()
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError):
        raise DdrsError(f"{what} {path}: not a whole PNG") from None
    return data
