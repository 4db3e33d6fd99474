"""Vectors that an application has stored, of another encoder than ours, as what its points are judged by."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from qdrant_client import models

from hysac_retrieval.errors import ModelMismatchError, SettingsError, SourceError
from hysac_retrieval.ingest.sources.fields import value_of
from hysac_retrieval.safety.views import ViewSetting
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.types import VECTOR_NAME, StoredPoint
from hysac_retrieval.types import MODALITIES, Modality

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder

_SAMPLE = 500  # points whose vectors are looked at before anything is changed


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """Vectors of an application's points, of the encoder that the head of a model was fitted to.

    Args:
        vector: Their name; ``""`` for vectors that have none.
        modality: What they stand for: ``"text"``, ``"image"``, or the payload field that says which.

    Raises:
        SettingsError: `modality` is empty.
    """

    vector: str
    modality: str

    def __post_init__(self) -> None:
        if not self.modality:
            raise SettingsError(
                "it is not known what the vectors stand for",
                hint="Give text, image, or a payload field that holds one of the two (--modality)",
            )

    @classmethod
    def of_kept(cls, kept: Mapping[str, Any]) -> Self:
        """Read what `kept` returned."""
        return cls(str(kept["vector"]), str(kept["modality"]))

    def kept(self) -> dict[str, Any]:
        """See `PointContent`."""
        return {"vector": self.vector, "modality": self.modality}

    @property
    def fields(self) -> tuple[str, ...]:
        """See `PointContent`."""
        return () if self.modality in MODALITIES else (self.modality,)

    def of_point(self, point: StoredPoint) -> tuple[Modality, bytes] | None:
        """See `PointContent`; the content is the vector's numbers, float32."""
        if point.vector is None:
            return None
        return self.modality_of(point.payload), struct.pack(f"{len(point.vector)}f", *point.vector)

    def judge(self, modality: Modality, views: ViewSetting, second: str | None = None) -> str:
        """See `PointContent`."""
        return f"vector {self.vector}"

    def modality_of(self, payload: Mapping[str, Any]) -> Modality:
        """Return what the vector of a point stands for; `SourceError` if its payload does not say."""
        value = self.modality if self.modality in MODALITIES else value_of(payload, self.modality)
        for modality in MODALITIES:
            if value == modality:
                return modality
        raise SourceError(
            f"field {self.modality!r} is {value!r}, expected {' or '.join(MODALITIES)}",
            hint="Mend the field, or say by --modality what all the vectors stand for",
        )


def plain_size(store: Store, name: str, vector: str) -> int:
    """Return how many numbers the vectors of a name have; ``""`` is the name of those without one.

    Raises:
        SettingsError: The collection has no plain vectors of that name.
    """
    sizes = store.extension(name).facts().sizes
    if vector not in sizes:
        there = ", ".join(repr(each) for each in sizes if each != VECTOR_NAME) or "none"
        raise SettingsError(
            f"collection {name!r} has no vectors {vector!r}; it has {there} ('' is the one without a name)",
            hint="Name one of them",
        )
    size = sizes[vector]
    if size is None:
        raise SettingsError(
            f"the vectors {vector!r} of {name!r} are sparse, or several of each point",
            hint="A head takes one plain vector of each",
        )
    return size


def expect_vectors(store: Store, name: str, content: StoredVectors, encoder: Encoder) -> None:
    """Check, before anything is changed, that the vectors are there, and look like those that a head was fitted to.

    Raises:
        NoEncoderError: The model has no head for them.
        SettingsError: The collection has no plain vectors of that name, or no point has one.
        ModelMismatchError: They are of another size, or do not look like them.
    """
    spec, size = encoder.vector_spec, plain_size(store, name, content.vector)
    if size != spec.size:
        raise ModelMismatchError(
            f"the vectors {content.vector!r} of {name!r} have {size} numbers, and the head of model {encoder.name!r} "
            f"takes {spec.size}",
            hint="Fit a head to these vectors: hysac fit",
        )
    held = models.Filter(must=[models.HasVectorCondition(has_vector=content.vector)])
    page, _ = store.scroll(name, filter=held, limit=_SAMPLE, with_vectors=content.vector)
    found: dict[Modality, list[Any]] = {}
    doubts: list[SourceError] = []
    for point in page:
        try:
            found.setdefault(content.modality_of(point.payload), []).append(point.vector)
        except SourceError as error:
            doubts.append(error)
    if not found and store.count(name):
        why = doubts[0].message if doubts else f"no point of {name!r} has a vector {content.vector!r}"
        raise SettingsError(why, hint=doubts[0].hint if doubts else "")
    for modality, vectors in found.items():
        encoder.expect_vectors(np.asarray(vectors, dtype=np.float32), modality)
