"""Files of the explorer, and one page without any other file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any

FILES: Mapping[str, str] = {
    "index.html": "text/html; charset=utf-8",
    **dict.fromkeys(("drawings.css", "style.css"), "text/css; charset=utf-8"),
    **dict.fromkeys(
        (
            "api.js",
            "app.js",
            "cards.js",
            "disk.js",
            "dom.js",
            "path.js",
            "radii.js",
            "report.js",
            "review.js",
            "strings.js",
        ),
        "text/javascript; charset=utf-8",
    ),
}
"""Names of the files, and their media types."""

DRAWINGS = ("strings.js", "dom.js", "cards.js", "path.js", "radii.js", "disk.js")
"""Modules that draw, each after those that it imports."""

_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
{style}</style>
</head>
<body class="report">
<main id="report"></main>
<script type="application/json" id="data">{data}</script>
<script type="module">
{script}</script>
</body>
</html>
"""


def read_file(name: str) -> bytes:
    """Return a file of the explorer; one of `FILES`."""
    return resources.files(__package__).joinpath("web", name).read_bytes()


def script(*names: str) -> str:
    """Return modules as one script: their names differ, and from a file on disk none can import another."""
    texts = (read_file(name).decode().replace("\r\n", "\n") for name in names)
    return "".join(_EXPORT.sub("", _IMPORT.sub("", text)) for text in texts)


def self_contained(data: Mapping[str, Any]) -> str:
    """Return a page that draws some data as the explorer does, and refers to no other file.

    Args:
        data: What is drawn, JSON-serialisable; its ``title``, and the parts that ``report.js`` knows.
    """
    # Inside a script element only "</" and "<!--" mean anything.
    held = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    style = "".join(read_file(name).decode() for name in ("drawings.css", "style.css"))
    return _PAGE.format(title=escape(data["title"]), style=style, data=held, script=script(*DRAWINGS, "report.js"))
