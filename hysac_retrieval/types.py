"""Words that all modules share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
PointId: TypeAlias = int | str
"""Id of a point: an integer from 0 to 2⁶⁴ − 1, or a UUID as its canonical string."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The largest unsafe score that counts as safe: one for texts, one for images."""

    text: float
    image: float

    @classmethod
    def both(cls, threshold: float) -> Thresholds:
        """Return the same threshold for texts and images."""
        return cls(threshold, threshold)

    def of(self, modality: Any) -> float:
        """Return the threshold of a modality; of anything that is none, the stricter one."""
        if modality == "text":
            return self.text
        return self.image if modality == "image" else self.strictest

    def passes(self, unsafe: float | None, modality: Any) -> bool:
        """Whether a score counts as safe for a point of a modality; no score does not."""
        return unsafe is not None and unsafe <= self.of(modality)

    @property
    def strictest(self) -> float:
        """The smaller one."""
        return min(self.text, self.image)

    @property
    def loosest(self) -> float:
        """The larger one."""
        return max(self.text, self.image)

    def __str__(self) -> str:
        """Return one number where both are the same, else each with its modality."""
        if self.text == self.image:
            return f"{self.text:.4g}"
        return f"text {self.text:.4g}, image {self.image:.4g}"
