"""Procedural backgrounds: twelve settings in four lights. They depend on nothing that a scene holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Colour = tuple[int, int, int]

_TINTS: dict[str, tuple[Sequence[float], Colour, float]] = {
    # gain per channel, colour that is mixed in, share of it
    "day": ((1.0, 1.0, 1.0), (255, 255, 255), 0.0),
    "morning": ((1.02, 0.98, 0.92), (255, 226, 190), 0.22),
    "dusk": ((0.92, 0.66, 0.58), (236, 110, 60), 0.2),
    "night": ((0.36, 0.4, 0.58), (22, 26, 70), 0.25),
}


class Painter:
    """One background on a square canvas; every method paints over what is there."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.y, self.x = np.meshgrid(*(np.linspace(0, 1, size, dtype=np.float32),) * 2, indexing="ij")
        self.pixels: Floats = np.zeros((size, size, 3), np.float32)

    def between(self, low: float, high: float) -> float:
        """A random number."""
        return float(self.rng.uniform(low, high))

    def colour(self, colour: Colour, spread: float = 14) -> Floats:
        """A colour, varied at random."""
        return (np.array(colour) + self.rng.uniform(-spread, spread, 3)).astype(np.float32)

    def gradient(self, top: Colour, bottom: Colour, start: float = 0.0, stop: float = 1.0) -> None:
        """Fill everything below `start`, from one colour to the other at `stop`; fractions of the height."""
        share = np.clip((self.y - start) / (stop - start), 0, 1)[..., None]
        rows = self.y >= start
        fill = self.colour(top) * (1 - share) + self.colour(bottom) * share
        self.pixels[rows] = fill[rows]

    def fill(self, mask: NDArray[np.bool_], colour: Colour, spread: float = 14) -> None:
        """Paint one colour where the mask is set."""
        self.pixels[mask] = self.colour(colour, spread)

    def texture(self, strength: float, cells: int = 8, start: float = 0.0) -> None:
        """Lighten and darken softly below `start`."""
        coarse = self.rng.normal(0, strength, (cells + 2, cells + 2)).astype(np.float32)
        at = np.linspace(0, cells, self.size, dtype=np.float32)
        low = at.astype(int)
        part = at - low
        rows = coarse[low] * (1 - part[:, None]) + coarse[low + 1] * part[:, None]
        soft = rows[:, low] * (1 - part) + rows[:, low + 1] * part
        self.pixels += (soft * (self.y >= start))[..., None]

    def dots(self, colour: Colour, count: int, start: float = 0.0, stop: float = 1.0, radius: float = 0.012) -> None:
        """Scatter dots between two heights."""
        for _ in range(count):
            cx, cy = self.between(0, 1), self.between(start, stop)
            self.fill((self.x - cx) ** 2 + (self.y - cy) ** 2 < radius**2, colour, 20)

    def ridge(self, base: float, height: float, colour: Colour, waves: float = 2.5) -> None:
        """Hills below a wavy line."""
        line = base - height * np.abs(np.sin(np.pi * (waves * self.x + self.between(0, 1)))) * self.between(0.7, 1.1)
        self.fill(self.y > line, colour)

    def sky(self, horizon: float) -> None:
        """A blue sky with soft clouds."""
        self.gradient((96, 166, 230), (200, 226, 245), 0, horizon)
        for _ in range(int(self.rng.integers(0, 3))):
            cx, cy = self.between(0, 1), self.between(0.05, horizon * 0.7)
            width = self.between(0.1, 0.22)
            self.fill(((self.x - cx) / width) ** 2 + ((self.y - cy) / (width * 0.35)) ** 2 < 1, (240, 245, 250), 6)


def paint(setting: str, light: str, rng: np.random.Generator, size: int, grain: float = 3) -> NDArray[np.uint8]:
    """Paint a background, (size, size, 3), with noise of standard deviation `grain`."""
    painter = Painter(rng, size)
    _SETTINGS[setting](painter)
    painter.pixels += rng.normal(0, grain, (size, size, 1)).astype(np.float32)
    gain, colour, share = _TINTS[light]
    tinted = painter.pixels * np.array(gain, np.float32) * (1 - share) + np.array(colour, np.float32) * share
    return np.clip(tinted, 0, 255).astype(np.uint8)


def _meadow(p: Painter) -> None:
    horizon = p.between(0.28, 0.42)
    p.sky(horizon)
    p.ridge(horizon, 0.06, (92, 158, 84))
    p.gradient((112, 184, 84), (66, 140, 58), horizon, 1)
    p.texture(9, 10, horizon)
    p.dots((250, 240, 150), 14, horizon + 0.05)
    p.dots((245, 200, 225), 8, horizon + 0.05)


def _beach(p: Painter) -> None:
    horizon, shore = p.between(0.24, 0.34), p.between(0.46, 0.6)
    p.sky(horizon)
    p.gradient((36, 128, 180), (110, 205, 215), horizon, shore)
    p.fill(p.y > shore + 0.03 * np.sin(7 * p.x + p.between(0, 6)) - 0.03, (240, 248, 248), 4)
    p.fill(p.y > shore + 0.03 * np.sin(7 * p.x + p.between(0, 6)), (235, 212, 158))
    p.texture(6, 12, shore)


def _desert(p: Painter) -> None:
    horizon = p.between(0.3, 0.45)
    p.sky(horizon)
    p.pixels[p.y < horizon] *= np.array((1.06, 1.0, 0.88), np.float32)
    p.ridge(horizon + 0.06, 0.12, (222, 170, 100), 1.5)
    p.ridge(horizon + 0.25, 0.14, (206, 148, 82), 1.2)
    p.ridge(horizon + 0.5, 0.14, (226, 176, 108), 1.0)
    p.texture(5, 14, horizon)


def _snow(p: Painter) -> None:
    horizon = p.between(0.3, 0.45)
    p.gradient((150, 178, 205), (206, 220, 234), 0, horizon)
    p.ridge(horizon + 0.03, 0.12, (196, 212, 228), 2)
    p.gradient((228, 236, 246), (206, 222, 240), horizon + 0.03, 1)
    p.texture(5, 8, horizon)
    p.dots((250, 252, 255), 30, 0, 0.9, 0.013)


def _street(p: Painter) -> None:
    horizon = p.between(0.42, 0.56)
    p.sky(horizon)
    left = p.between(-0.1, 0)
    while left < 1:
        width, top = p.between(0.14, 0.26), p.between(0.04, horizon - 0.15)
        wall = (p.x > left) & (p.x < left + width) & (p.y > top) & (p.y < horizon)
        p.fill(wall, ((170, 130, 112), (150, 152, 165), (196, 178, 150), (128, 110, 120))[int(p.rng.integers(4))])
        p.fill(wall & ((p.x - left) % 0.07 < 0.03) & ((p.y - top) % 0.1 < 0.05) & (p.y > top + 0.03), (232, 224, 176))
        left += width
    p.fill((p.y >= horizon) & (p.y < horizon + 0.1), (176, 172, 168))
    p.gradient((98, 98, 104), (76, 76, 82), horizon + 0.1, 1)
    stripe = horizon + 0.1 + (0.9 - horizon) / 2
    p.fill((abs(p.y - stripe) < 0.014) & ((p.x + p.between(0, 1)) % 0.25 < 0.14), (235, 232, 220), 5)
    p.texture(4, 16)


def _sea(p: Painter) -> None:
    horizon = p.between(0.22, 0.36)
    p.sky(horizon)
    p.gradient((52, 140, 190), (16, 76, 140), horizon, 1)
    phase = p.between(0, 6)
    crest = np.sin(60 * (p.y - horizon) / (0.4 + p.y) + 1.2 * np.sin(9 * p.x + phase)) > 0.86
    p.pixels[crest & (p.y > horizon)] += 38
    p.texture(7, 9, horizon)


def _forest(p: Painter) -> None:
    p.gradient((150, 192, 150), (92, 146, 96), 0, 1)
    for shade in ((74, 120, 78), (48, 92, 58)):
        for _ in range(7):
            cx, half = p.between(0, 1), p.between(0.012, 0.03)
            p.fill((abs(p.x - cx) < half) & (p.y < 0.75), (96, 72, 52))
            crown, width = p.between(0.02, 0.3), p.between(0.07, 0.12)
            p.fill(((p.x - cx) / width) ** 2 + ((p.y - crown) / 0.16) ** 2 < 1, shade)
    p.gradient((96, 112, 62), (70, 84, 44), p.between(0.62, 0.74), 1)
    p.texture(9, 12)


def _mountains(p: Painter) -> None:
    horizon = p.between(0.55, 0.66)
    p.sky(horizon)
    for base, colour in ((horizon, (142, 152, 172)), (horizon + 0.06, (110, 118, 128))):
        peak, slope = p.between(0.1, 0.9), p.between(0.8, 1.5)
        line = base - 0.45 + slope * abs(p.x - peak)
        p.fill(p.y > line, colour)
        p.fill((p.y > line) & (p.y < line + 0.1), (236, 240, 245), 5)
    p.gradient((122, 160, 100), (92, 132, 76), horizon, 1)
    p.texture(8, 10)


def _field(p: Painter) -> None:
    horizon = p.between(0.3, 0.42)
    p.sky(horizon)
    p.gradient((226, 190, 88), (188, 142, 52), horizon, 1)
    rows = np.sin(40 * (p.x - p.between(0.3, 0.7)) / (0.25 + p.y - horizon))
    p.pixels += (14 * rows * (p.y > horizon))[..., None]
    p.fill((p.y > horizon - 0.03) & (p.y < horizon), (104, 140, 80))
    p.texture(6, 12, horizon)


def _kitchen(p: Painter) -> None:
    counter = p.between(0.55, 0.68)
    p.fill(p.y >= 0, ((214, 230, 228), (238, 228, 204), (222, 216, 236))[int(p.rng.integers(3))])
    p.pixels[((p.x % 0.125) < 0.014) | ((p.y % 0.125) < 0.014)] -= 22
    p.gradient((176, 122, 78), (150, 98, 60), counter, counter + 0.07)
    p.fill(p.y > counter + 0.07, (206, 196, 184))
    p.fill((p.y > counter + 0.07) & ((p.x + p.between(0, 0.3)) % 0.33 < 0.014), (128, 116, 106))
    p.fill((p.y > counter + 0.12) & (p.y < counter + 0.14) & ((p.x + 0.1) % 0.33 < 0.1), (108, 100, 96))
    p.texture(4, 6)


def _room(p: Painter) -> None:
    floor = p.between(0.6, 0.72)
    wall = ((226, 206, 180), (190, 208, 214), (214, 186, 182), (200, 212, 184))[int(p.rng.integers(4))]
    p.gradient(wall, wall, 0, floor)
    p.pixels[((p.x % 0.1) < 0.05) & (p.y < floor)] -= 9
    left, top = p.between(0.05, 0.65), p.between(0.06, 0.14)
    pane = (p.x > left) & (p.x < left + 0.28) & (p.y > top) & (p.y < top + 0.26)
    p.fill(pane, (176, 212, 238))
    p.fill(pane & ((abs(p.x - left - 0.14) < 0.012) | (abs(p.y - top - 0.13) < 0.012)), (246, 242, 236), 3)
    p.gradient((168, 116, 76), (134, 88, 56), floor, 1)
    p.pixels[((p.y - floor) % 0.08 < 0.012) & (p.y > floor)] -= 22
    p.texture(4, 6)


def _stage(p: Painter) -> None:
    floor = p.between(0.66, 0.78)
    curtain = ((150, 36, 48), (96, 40, 110), (36, 66, 120))[int(p.rng.integers(3))]
    p.fill(p.y >= 0, curtain)
    p.pixels += (26 * np.sin(2 * np.pi * (9 * p.x + p.between(0, 1))))[..., None]
    spot = np.exp(-(((p.x - p.between(0.35, 0.65)) / 0.35) ** 2) - ((p.y - 0.5) / 0.5) ** 2)
    p.pixels += (46 * spot)[..., None]
    p.gradient((150, 104, 66), (104, 68, 42), floor, 1)
    p.texture(4, 10, floor)


_PAINTERS = (_meadow, _beach, _desert, _snow, _street, _sea, _forest, _mountains, _field, _kitchen, _room, _stage)
_SETTINGS: dict[str, Callable[[Painter], None]] = {paint.__name__.removeprefix("_"): paint for paint in _PAINTERS}
