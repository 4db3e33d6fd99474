"""The domain of a model: what it knows, and which inputs are unlike that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.encoder.bundle import Manifest
from hysac_retrieval.encoder.inputs import Inputs
from hysac_retrieval.encoder.vectors import unit_vectors
from hysac_retrieval.encoder.views import Views
from hysac_retrieval.errors import ModelMismatchError
from hysac_retrieval.safety.policy import LEAST_KNOWN
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.types import Modality


@dataclass(frozen=True)
class Domain:
    """Words for what a model knows, and the statistics of it, if it has any."""

    name: str
    inputs: Inputs

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return that of a bundle."""
        return cls(manifest.domain, manifest.inputs or Inputs())

    def remark(self, model: str, pictures: int) -> str:
        """Say that so many pictures are unlike what the model knows, and what can be done."""
        these = f"{pictures:,} picture{' is' if pictures == 1 else 's are'}"
        known = f" ({self.name})" if self.name else ""
        return (
            f"{these} unlike anything {model} knows{known}: scores of such pictures, and what is found among them, "
            "mean nothing. Fit a model with labels of such pictures: hysac fit"
        )

    def marked(
        self, modality: Modality, items: Sequence[Views], points: NDArray[Any], judged: Sequence[Judged]
    ) -> list[Judged]:
        """Note with what was judged of n items whether they are unlike what the model knows.

        A picture is by the pixels of its first view, and a text by how much of it the model knows; either by the
        direction of its point, (n, d), which is that of the encoder's vector where a head was fitted.
        """
        signs: list[Sequence[bool | None]] = [self.unlike(points, modality)]
        if modality == "text":
            signs.append([None if one.known is None else one.known < LEAST_KNOWN for one in judged])
        elif self.inputs.pictures is not None:
            signs.append(self.inputs.pictures.unlike(np.stack([item.rows[0] for item in items])).tolist())
        return [replace(one, unlike=_any(marks)) for one, *marks in zip(judged, *signs, strict=True)]

    def unlike(self, vectors: NDArray[Any], *modalities: Modality) -> list[bool | None]:
        """Tell which vectors (n, k), finite and none of them 0, are unlike all that heads were fitted to."""
        known = [self.inputs.text if modality == "text" else self.inputs.image for modality in modalities]
        found = [None if each is None else each.unlike(vectors) for each in known]
        told = [marks for marks in found if marks is not None]
        return [None] * len(vectors) if len(told) < len(found) else np.logical_and.reduce(told).tolist()

    def expect_vectors(self, vectors: NDArray[Any], modality: Modality, size: int, model: str) -> None:
        """Raise `ModelMismatchError` for vectors (n, k) that are not those of `size` numbers that a head takes."""
        fault = ""
        if vectors.ndim == 2 and vectors.shape[1] != size:
            fault = f"the vectors have {vectors.shape[1]} numbers, and the head of model {model!r} takes {size}"
        elif (known := self.inputs.text if modality == "text" else self.inputs.image) is not None:
            units, faults = unit_vectors(vectors, size)
            if known.foreign(np.delete(units, [*faults], axis=0)):
                fault = (
                    f"the vectors of {modality}s are of another encoder than the head of model {model!r} was fitted to"
                )
        if fault:
            raise ModelMismatchError(fault, hint="Fit a head to these vectors: hysac fit")


def _any(marks: Sequence[bool | None]) -> bool | None:
    """Whether one is true; None where none says anything."""
    told = [mark for mark in marks if mark is not None]
    return any(told) if told else None
