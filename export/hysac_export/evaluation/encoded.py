"""Splits of the scenes as points: drawn once, encoded by any model, ready for calibration and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import InvalidVectorError, SettingsError

GROUPS = ("safe_text", "safe_image", "unsafe_text", "unsafe_image")
"""The four groups, from the origin outwards."""

Points = NDArray[np.floating[Any]]
Progress = Callable[[int], None]
"""Called with the number of quadruplets that are done since the last call."""


class EncodesScenes(Protocol):
    """What calibration and evaluation ask of a model: the runtime `Encoder` and a `TrainedRun` both have it."""

    @property
    def curvature(self) -> float:
        """Curvature c > 0 of the space (−c); NaN for a Euclidean model, whose points are unit vectors."""
        ...

    def encode_text(self, texts: list[str], /) -> Points:
        """Points of n texts, (n, d)."""
        ...

    def encode_image(self, pixels: NDArray[np.uint8], /) -> Points:
        """Points of n images, (n, S, S, 3) uint8 to (n, d)."""
        ...


@dataclass(frozen=True)
class DrawnSplit:
    """n quadruplets as pictures and captions.

    Attributes:
        name: The split.
        safe_text: n captions.
        safe_image: (n, S, S, 3) uint8.
        unsafe_text: n captions of the unsafe twins.
        unsafe_image: (n, S, S, 3) uint8.
        categories: What is unsafe about each twin, (n,) str.
        context: Whether the company of something decides, (n,) bool.
        safe_shown: What is in each safe picture, n times ids of the catalogue; empty where nobody knows.
        unsafe_shown: The same of the unsafe ones.
    """

    name: str
    safe_text: Sequence[str]
    safe_image: NDArray[np.uint8]
    unsafe_text: Sequence[str]
    unsafe_image: NDArray[np.uint8]
    categories: NDArray[np.str_]
    context: NDArray[np.bool_]
    safe_shown: Sequence[tuple[str, ...]] = ()
    unsafe_shown: Sequence[tuple[str, ...]] = ()


@dataclass(frozen=True)
class EncodedSplit:
    """n encoded quadruplets; row i of every group belongs to quadruplet i.

    Attributes:
        safe_text: (n, d) float32 or float64; space components, or unit vectors of a Euclidean model.
        safe_image: (n, d).
        unsafe_text: (n, d).
        unsafe_image: (n, d).
        categories: What is unsafe about each twin, (n,) str.
        context: Whether the company of something decides, (n,) bool.
        name: The split.

    Raises:
        InvalidVectorError: The groups differ in shape, are empty, or hold values that are not finite (a model that
            yields NaN would otherwise look perfect: nothing ranks above a NaN).
    """

    safe_text: Points
    safe_image: Points
    unsafe_text: Points
    unsafe_image: Points
    categories: NDArray[np.str_]
    context: NDArray[np.bool_]
    name: str = ""

    def __post_init__(self) -> None:
        n, *rest = self.safe_text.shape
        for group in GROUPS:
            points = getattr(self, group)
            if points.shape != (n, *rest) or len(rest) != 1 or n == 0:
                raise InvalidVectorError(
                    f"{group} has shape {points.shape}, expected (n, d) with n ≥ 1 as safe_text: {self.safe_text.shape}"
                )
            if not np.isfinite(points).all():
                bad = int((~np.isfinite(points).all(axis=1)).sum())
                raise InvalidVectorError(f"{bad} of {n} {group} points are not finite; the model diverged in training")
        if self.categories.shape != (n,) or self.context.shape != (n,):
            raise InvalidVectorError(
                f"categories {self.categories.shape} and context {self.context.shape} must have shape ({n},)"
            )

    def __len__(self) -> int:
        return len(self.safe_text)

    def select(self, rows: NDArray[np.bool_]) -> Self:
        """The quadruplets of some rows, (n,) bool, at least one of them true."""
        parts = {field: getattr(self, field)[rows] for field in (*GROUPS, "categories", "context")}
        return replace(self, **parts)


def draw_split(
    split: str, n: int = 1000, seed: int = 0, size: int = 64, progress: Progress | None = None
) -> DrawnSplit:
    """Draw and describe n quadruplets of a split. Deterministic; the first k of n are the same for every n.

    Args:
        split: One of `hysac_export.data.scenes.SPLITS`.
        n: Number of quadruplets, at least 1.
        seed: Seed of the quadruplets, their pictures and captions.
        size: Side of the pictures in pixels.
        progress: Called as quadruplets are done.

    Raises:
        SettingsError: No such split, n below 1, or a negative seed.
    """
    from hysac_export.data.scenes import Artist, caption, quadruplets, styles_for

    if n < 1:
        raise SettingsError(f"{n} quadruplets asked for; expected at least 1")
    check_seed(seed)
    artist = Artist(styles_for(split), size=size)
    chosen = quadruplets(split, n, seed)
    texts: dict[bool, list[str]] = {False: [], True: []}
    images = {unsafe: np.empty((n, size, size, 3), dtype=np.uint8) for unsafe in (False, True)}
    for row, quadruplet in enumerate(chosen):
        rng = np.random.default_rng((seed, row, 2))  # training draws from (seed, step, 1)
        for scene, unsafe in ((quadruplet.safe, False), (quadruplet.unsafe, True)):
            images[unsafe][row] = artist.draw(scene, rng)
            texts[unsafe].append(caption(scene, rng))
        if progress:
            progress(1)
    return DrawnSplit(
        split,
        texts[False],
        images[False],
        texts[True],
        images[True],
        np.array([q.category for q in chosen], dtype=np.str_),
        np.array([q.context for q in chosen], dtype=np.bool_),
        [q.safe.entities for q in chosen],
        [q.unsafe.entities for q in chosen],
    )


def check_seed(seed: int) -> None:
    """Refuse what generators of random numbers do not take.

    Raises:
        SettingsError: The seed is negative.
    """
    if seed < 0:
        raise SettingsError(f"the seed is {seed}; expected 0 or more")


def encode_drawn(encoder: EncodesScenes, drawn: DrawnSplit, progress: Progress | None = None) -> EncodedSplit:
    """Encode a drawn split with a model."""
    points: dict[str, Points] = {}
    n = len(drawn.categories)
    for group in GROUPS:
        items = getattr(drawn, group)
        encode = encoder.encode_image if group.endswith("image") else lambda part: encoder.encode_text(list(part))
        parts = []
        for start in range(0, n, 128):
            parts.append(encode(items[start : start + 128]))
            # Images are nearly all the work; texts count as nothing.
            if progress and group.endswith("image"):
                progress(len(parts[-1]))
        points[group] = np.concatenate(parts)
    return EncodedSplit(**points, categories=drawn.categories, context=drawn.context, name=drawn.name)


def encode_split(encoder: EncodesScenes, split: str, n: int = 1000, seed: int = 0, size: int = 64) -> EncodedSplit:
    """Draw n quadruplets of a split and encode them; see `draw_split`."""
    return encode_drawn(encoder, draw_split(split, n, seed, size))


def curvature_of(encoder: EncodesScenes) -> float | None:
    """Curvature c of a model's space; ``None`` for a Euclidean model."""
    return None if math.isnan(encoder.curvature) else float(encoder.curvature)
