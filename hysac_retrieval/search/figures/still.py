"""Figures as SVG and PNG: the page's own drawings, run in a JavaScript engine without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hysac_retrieval.errors import MissingExtraError, SettingsError
from hysac_retrieval.search.figures.page import DRAWINGS, read_file, script

_ZOOM = 2  # pixels of a PNG for each of the drawing
_WORD = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><style>{}</style><text y="16">{}</text></svg>'


def draw(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the drawings by their names: each query's way, the map, the radii of each kind.

    Args:
        data: What is drawn, as for `self_contained`.

    Raises:
        MissingExtraError: The extra ``figures`` is not installed.
    """
    try:
        from py_mini_racer import mini_racer
    except ImportError as error:
        raise MissingExtraError("mini-racer", "figures", "drawing to SVG and PNG (HTML needs nothing)") from error
    with mini_racer() as engine:
        engine.eval(f"{script('still.js', *DRAWINGS)}\nglobalThis.still = still;")
        made: dict[str, str] = json.loads(engine.call("still", json.dumps(data), _style()))
    return made


def to_png(drawing: str) -> bytes:
    """Return a drawing as a PNG.

    Raises:
        MissingExtraError: The extra ``figures`` is not installed.
        SettingsError: This machine has none of the fonts that drawings are written in.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise MissingExtraError("resvg-py", "figures", "drawing to PNG (HTML needs nothing)") from error
    # Without them, texts would be missing without a word.
    if len({bytes(resvg_py.svg_to_bytes(svg_string=_WORD.format(_style(), word))) for word in ("", "x")}) == 1:
        message = "none of the fonts that drawings are written in is installed"
        raise SettingsError(message, hint="Install one, such as fonts-dejavu-core")
    return bytes(resvg_py.svg_to_bytes(svg_string=drawing, zoom=_ZOOM))


def _style() -> str:
    """Return the rules of the drawings on light ground; not every viewer of SVG knows variables."""
    given, _, rules = read_file("drawings.css").decode().partition("@media")[0].partition("}")
    values = dict(re.findall(r"(--[\w-]+):\s*([^;]+);", given))
    return re.sub(r"var\((--[\w-]+)\)", lambda found: values[found[1]], rules)
