"""Words that all modules share."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
PointId: TypeAlias = int | str
"""Id of a point: an integer from 0 to 2⁶⁴ − 1, or a UUID as its canonical string."""
