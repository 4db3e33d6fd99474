"""Draws scenes: sprites at random places, sizes and colours on a background of the scene's setting and light.

Where, how large and in what colours something is drawn depends on the generator and on the number of sprites, never on
what it is. All that is slow (decoding, scaling, painting) is done once per artist, so that pictures can be drawn
anew in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_export.data.scenes.backgrounds import paint
from hysac_export.data.scenes.catalogue import KNOWN_STYLES
from hysac_export.data.scenes.sampling import Scene
from hysac_export.data.scenes.splits import stable_hash
from hysac_export.data.scenes.sprites import DRAWS, load_sprites, restyle, styles_of
from hysac_retrieval.errors import SettingsError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

VARIANTS = 10
"""Painted backgrounds per setting and light; cropping, mirroring and colour vary them further."""

# Centres of n sprites as fractions of the edge; mirrored and transposed at random.
_LAYOUTS: dict[int, tuple[tuple[tuple[float, float], ...], ...]] = {
    2: (((0.28, 0.5), (0.72, 0.5)), ((0.3, 0.32), (0.7, 0.68)), ((0.28, 0.62), (0.72, 0.62))),
    3: (
        ((0.26, 0.3), (0.74, 0.3), (0.5, 0.72)),
        ((0.26, 0.28), (0.72, 0.5), (0.26, 0.74)),
        ((0.25, 0.7), (0.5, 0.27), (0.76, 0.68)),
    ),
    4: (
        ((0.26, 0.27), (0.74, 0.27), (0.26, 0.74), (0.74, 0.74)),
        ((0.5, 0.22), (0.22, 0.52), (0.78, 0.5), (0.5, 0.78)),
    ),
}
_EDGES = {2: (22, 34), 3: (20, 31), 4: (18, 28)}
"""Smallest and largest sprite among n, in pixels of a picture of 64."""


@dataclass(frozen=True)
class Drawing:
    """A picture, (size, size, 3), and how it came about.

    `covered` tells where sprites cover the background, (size, size); `boxes` are left, top and edge of each entity's
    sprite in pixels, in the order of drawing.
    """

    pixels: Pixels
    covered: NDArray[np.bool_]
    boxes: dict[str, tuple[int, int, int]]


class Artist:
    """Draws scenes in the given art styles.

    Half of the pictures keep to one style as far as it goes, half choose one for every sprite.
    """

    def __init__(
        self, styles: Sequence[str] = KNOWN_STYLES, size: int = 64, noise: float = 1.0, restyled: float = 0.0
    ) -> None:
        """Decode the sprites of one or more art styles, for pictures of an edge of 32 pixels or more.

        `noise` is their graininess; a share `restyled` of the sprites is drawn in new colours and shapes, for training.
        """
        if not styles or size < 32:
            raise SettingsError(f"an artist needs a style and a size of 32 or more; found {styles!r} and {size}")
        self.styles = tuple(styles)
        self.size = size
        self._sprites = {style: load_sprites(style) for style in self.styles}
        self._choices: dict[str, tuple[str, ...]] = {}
        self._scaled: dict[tuple[str, str, int], Pixels] = {}
        self._backgrounds: dict[tuple[str, str, int], Pixels] = {}
        self._restyled = restyled
        self._margin = size // 4
        self._grain = noise
        grain = np.random.default_rng(0).normal(0, noise, (4 * size, 4 * size, 1))
        self._noise: Floats = grain.astype(np.float32)

    def draw(self, scene: Scene, rng: np.random.Generator) -> Pixels:
        """Draw a scene, (size, size, 3)."""
        return self._compose(scene, rng, None)

    def trace(self, scene: Scene, rng: np.random.Generator) -> Drawing:
        """Draw a scene, the same picture as `draw` gives, and say what went where."""
        drawing = Drawing(np.empty(0, np.uint8), np.zeros((self.size, self.size), np.bool_), {})
        return replace(drawing, pixels=self._compose(scene, rng, drawing))

    def _compose(self, scene: Scene, rng: np.random.Generator, drawing: Drawing | None) -> Pixels:
        n = len(scene.entities)
        draws = rng.random((n + 2, 12)).tolist()
        anew = rng.random((n, 1 + DRAWS)).tolist() if self._restyled else None
        canvas = self._canvas(scene, draws[0])
        whole = draws[1]
        # A style for the whole picture is drawn in any case, so that the stream is the same for both halves.
        one_style = self.styles[int(whole[1] * len(self.styles))] if whole[0] < 0.5 else ""
        layout = _LAYOUTS[n][int(whole[2] * len(_LAYOUTS[n]))]
        low, high = _EDGES[n]
        order = sorted(range(n), key=lambda i: draws[2 + i][0])
        for (across, down), i in zip(layout, order, strict=True):
            u = draws[2 + i]
            edge = round((low + u[1] * (high - low)) * self.size / 128) * 2
            if whole[3] < 0.5:
                across = 1 - across
            if whole[4] < 0.5:
                down = 1 - down
            if whole[5] < 0.5:
                across, down = down, across
            x, y = (self._start(centre, jitter, edge) for centre, jitter in ((across, u[2]), (down, u[3])))
            sprite = self._sprite(scene.entities[i], one_style, u[4], edge)
            if anew and anew[i][0] < self._restyled:
                sprite = restyle(sprite, anew[i][1:])
            if u[5] < 0.5:
                sprite = sprite[:, ::-1]
            solid = sprite[..., 3:].astype(np.float32) * np.float32(1 / 255)
            bright, shift = 0.84 + 0.32 * u[6], 28 * (u[7] - 0.5)
            gain = np.array([bright * (0.93 + 0.14 * u[c]) for c in (8, 9, 10)], np.float32)
            part = canvas[y : y + edge, x : x + edge]
            part *= 1 - solid
            part += sprite[..., :3] * gain + solid * np.float32(shift)
            if drawing is not None:
                drawing.covered[y : y + edge, x : x + edge] |= solid[..., 0] > 0
                drawing.boxes[scene.entities[i]] = (x, y, edge)
        return _finish(canvas)

    def _start(self, centre: float, jitter: float, edge: int) -> int:
        start = round(self.size * (centre + 0.14 * (jitter - 0.5)) - edge / 2)
        return min(max(start, 0), self.size - edge)

    def _canvas(self, scene: Scene, u: Sequence[float]) -> Floats:
        """Background with a crop, a mirror image, a tint and noise of its own, (size, size, 3)."""
        size, variant = self.size, int(u[0] * VARIANTS)
        key = (scene.setting, scene.light, variant)
        if (painted := self._backgrounds.get(key)) is None:
            seed = stable_hash(scene.setting, scene.light, str(variant))
            rng, grain = np.random.default_rng(seed), 3 * self._grain
            painted = paint(scene.setting, scene.light, rng=rng, size=size + self._margin, grain=grain)
            self._backgrounds[key] = painted
        y, x = (int(v * (self._margin + 1)) for v in u[1:3])
        crop = painted[y : y + size, x : x + size]
        if u[3] < 0.5:
            crop = crop[:, ::-1]
        dy, dx = (int(v * 3 * size) for v in u[4:6])
        gain = np.array([0.86 + 0.2 * u[6] + 0.08 * v for v in (u[7], u[4], u[5])], np.float32)
        canvas: Floats = crop * gain
        canvas += self._noise[dy : dy + size, dx : dx + size] * np.float32(1 + 7 * u[1])
        return canvas

    def _sprite(self, entity: str, style: str, u: float, edge: int) -> Pixels:
        """A sprite scaled to `edge`, (edge, edge, 4), colours multiplied by alpha."""
        if (choices := self._choices.get(entity)) is None:
            choices = self._choices[entity] = tuple(s for s in self.styles if s in styles_of(entity))
            if not choices:
                message = f"{entity!r} is drawn in none of the styles {self.styles}"
                raise SettingsError(message, hint=f"Draw it in {styles_of(entity)}")
        if style not in choices:
            style = choices[int(u * len(choices))]
        key = (style, entity, edge)
        if (scaled := self._scaled.get(key)) is None:
            image = self._sprites[style][entity].convert("RGBa").resize((edge, edge), Image.Resampling.BICUBIC)
            scaled = self._scaled[key] = np.asarray(image)
        return scaled


def _finish(canvas: Floats) -> Pixels:
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
