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
    "style.css": "text/css; charset=utf-8",
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

_DRAWINGS = ("strings.js", "dom.js", "cards.js", "path.js", "radii.js", "disk.js", "report.js")
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


def self_contained(title: str, data: Mapping[str, Any]) -> str:
    """Return a page that draws some data as the explorer does, and refers to no other file.

    Args:
        title: Its heading.
        data: What is drawn, JSON-serialisable; the parts that ``report.js`` knows.
    """
    # Modules cannot import each other from a file on disk, so they are put behind each other; their names differ.
    script = "".join(
        _EXPORT.sub("", _IMPORT.sub("", read_file(name).decode().replace("\r\n", "\n"))) for name in _DRAWINGS
    )
    # Inside a script element only "</" and "<!--" mean anything.
    held = json.dumps({"title": title, **data}, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return _PAGE.format(title=escape(title), style=read_file("style.css").decode(), data=held, script=script)
