"""Quadruplets as pictures and captions, drawn once for every model that is calibrated or evaluated on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hysac_export.data.scenes import Artist, caption, quadruplets, styles_for
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.types import Modality

Group = Literal["safe_text", "safe_image", "unsafe_text", "unsafe_image"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""The four groups, from the origin outwards."""
PAIRS: Mapping[Modality, tuple[Group, Group]] = {
    "text": ("safe_text", "unsafe_text"),
    "image": ("safe_image", "unsafe_image"),
}
"""The safe and the unsafe group of each modality."""
Progress = Callable[[int], None]
"""Called with the number of items that are done since the last call."""
Stages = Callable[[str, int | None], Progress | None]
"""Called when a stage of work begins, with its name and its number of items; returns what counts the items done."""


def unseen(stage: str, total: int | None) -> None:
    """Stages that nobody follows."""


@dataclass(frozen=True)
class DrawnSplit:
    """n quadruplets of a split, as captions and as pictures, (n, S, S, 3) uint8.

    `categories` tell what is unsafe about each twin, `context` whether the company of something decides, (n,) each;
    `safe_shown` and `unsafe_shown` are ids of the catalogue in each picture, empty if unknown.
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


def draw_split(
    split: str, n: int = 1000, seed: int = 0, size: int = 64, progress: Progress | None = None
) -> DrawnSplit:
    """Draw and describe n quadruplets of a split of the scenes, pictures of `size` pixels a side.

    The first k of n are the same for every n (`SettingsError`: no such split, n below 1, or a negative seed).
    """
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
    categories = np.array([q.category for q in chosen], dtype=np.str_)
    context = np.array([q.context for q in chosen], dtype=np.bool_)
    shown = [q.safe.entities for q in chosen], [q.unsafe.entities for q in chosen]
    return DrawnSplit(split, texts[False], images[False], texts[True], images[True], categories, context, *shown)


def check_seed(seed: int) -> None:
    """Refuse a seed that random generators do not take (`SettingsError`: the seed is negative)."""
    if seed < 0:
        raise SettingsError(f"the seed is {seed}; expected 0 or more")
