"""The sprites that ship with the package: one atlas per art style, drawn by `art.py`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_retrieval.errors import SettingsError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SpriteIndex:
    """Where the sprites lie: edge of a cell, cells per row, and the entities of each style in atlas order."""

    cell: int
    columns: int
    styles: Mapping[str, Sequence[str]]


@cache
def sprite_index() -> SpriteIndex:
    """The index of the atlases."""
    raw = json.loads(files(__package__).joinpath("sprites", "index.json").read_text("utf-8"))
    return SpriteIndex(raw["cell"], raw["columns"], {s: tuple(v["entities"]) for s, v in raw["styles"].items()})


@cache
def styles_of(entity: str) -> tuple[str, ...]:
    """The styles that an entity is drawn in."""
    return tuple(style for style, entities in sprite_index().styles.items() if entity in entities)


def load_sprites(style: str) -> dict[str, Image.Image]:
    """All sprites of a style by entity, RGBA (`SettingsError`: there is no atlas of this style)."""
    index = sprite_index()
    if style not in index.styles:
        raise SettingsError(f"There is no art style {style!r}; there are {', '.join(index.styles)}.")
    data = files(__package__).joinpath("sprites", f"{style}.webp").read_bytes()
    atlas = Image.open(io.BytesIO(data)).convert("RGBA")
    edge = index.cell
    return {
        entity: atlas.crop(
            ((x := place % index.columns * edge), (y := place // index.columns * edge), x + edge, y + edge)
        )
        for place, entity in enumerate(index.styles[style])
    }
