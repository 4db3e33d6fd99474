"""The sprites that ship with the package, one atlas per art style, drawn by `art.py`, and restyled ones.

Restyled sprites have colours and shapes that no artist drew, so that a model learns what a thing is and not how it is
drawn: a corner-to-corner warp (perspective, shear, aspect), a rotation of the hues, contrast, fewer tones and a drawn
outline, each by its own draw and none depending on what the sprite shows. For training only.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from hysac_retrieval.errors import SettingsError

Pixels = NDArray[np.uint8]
DRAWS = 17
"""Uniform numbers that one sprite takes."""

_WARP = 0.13
"""Largest move of a corner, as a share of the edge."""
_HUE = math.radians(35)
_GREY = np.full((3, 3), 1 / 3, np.float32)
_AXIS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.float32(math.sqrt(3))


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


def restyle(sprite: NDArray[np.uint8], u: Sequence[float]) -> NDArray[np.uint8]:
    """Draw a sprite anew, (edge, edge, 4) with colours multiplied by alpha, by `DRAWS` uniform numbers in [0, 1)."""
    edge = sprite.shape[0]
    # Corners from the upper left against the clock, as QUAD takes them.
    corners = [
        base * edge + (2 * v - 1) * _WARP * edge for base, v in zip((0, 0, 0, 1, 1, 1, 1, 0), u[:8], strict=True)
    ]
    image = Image.fromarray(sprite, "RGBa").transform(
        (edge, edge), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR
    )
    if u[8] < 0.25:
        image = image.filter(ImageFilter.MedianFilter(3))
    pixels = np.asarray(image).astype(np.float32)
    solid = pixels[..., 3:] / 255
    colours = pixels[..., :3] @ _colour_matrix(u[9], u[10])
    contrast = np.float32(0.65 + 0.8 * u[11])
    colours = (colours - 128 * solid) * contrast + 128 * solid
    if u[12] < 0.3:
        tones = np.float32(255 / (2 + int(u[13] * 4)))
        colours = np.round(colours / tones) * tones
    out = np.concatenate([np.clip(colours, 0, 255 * solid), pixels[..., 3:]], axis=2)
    if u[14] < 0.3:
        out = _outlined(out, 90 * u[15], 0.5 + 0.5 * u[16])
    return out.astype(np.uint8)


def _colour_matrix(hue: float, saturation: float) -> NDArray[np.float32]:
    """Rotation of the hue about the grey axis (Rodrigues) with a change of saturation, (3, 3), for rows of colours."""
    angle = (2 * hue - 1) * _HUE
    turned = math.cos(angle) * (np.eye(3, dtype=np.float32) - _GREY) + math.sin(angle) * _AXIS
    return (_GREY + (0.3 + 1.3 * saturation) * turned).astype(np.float32)


def _outlined(pixels: NDArray[np.float32], grey: float, strength: float) -> NDArray[np.float32]:
    """The sprite on its own silhouette, one pixel wider and dark."""
    silhouette = Image.fromarray(pixels[..., 3].astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    wider = np.asarray(silhouette, np.float32)[..., None] * np.float32(strength)
    line = np.concatenate([wider * np.float32(grey / 255)] * 3 + [wider], axis=2)
    return np.asarray(pixels + line * (1 - pixels[..., 3:] / 255), np.float32)
