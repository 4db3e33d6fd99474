"""Layout of a collection when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ValidationError

from hysac_retrieval.collection.collection import Collection, payload_indexes
from hysac_retrieval.collection.metadata import CollectionMetadata, raw_fingerprint, stamp_of
from hysac_retrieval.errors import CollectionExistsError, ModelMismatchError, SettingsError
from hysac_retrieval.lift import Lift, PaddedLift, PoincareLift, lift_from_dict
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.types import CollectionSpec, HnswOptions, IndexKind, Quantization, StorageOptions
from hysac_retrieval.types import MODALITIES

LiftChoice = Lift | Mapping[str, Any] | Literal["padded", "poincare", "auto"]
"""A lift, its `to_dict`, the name of a strategy to fit, or ``"auto"`` to measure which serves a sample better."""

ROTATE_SEED = 0
"""Seed of the rotation that int8 quantization needs; kept with the lift, so that any process rebuilds it."""

_MARGIN_SIGMAS = 8.0


class PointModel(Protocol):
    """A model that makes points, as far as a collection needs it; an `Encoder` is one."""

    @property
    def dim(self) -> int:
        """Number d of space components of a point."""

    @property
    def curvature(self) -> float:
        """Curvature c > 0 of the space (−c)."""

    @property
    def safety(self) -> SafetyProfile:
        """The model's calibration."""

    @property
    def fingerprint(self) -> str:
        """Identity of what the model computes."""

    @property
    def lift(self) -> Lift | None:
        """Lift fitted on the model's points; None if it has none."""


def model_options(model: PointModel, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Index.create` and `Index.attach` for a model, and others that they take."""
    own = {"dim": model.dim, "curvature": model.curvature, "safety": model.safety, "fingerprint": model.fingerprint}
    if options.get("sample") is None and options.get("lift") is None:
        own["lift"] = model.lift
    return {**options, **own}


def collection_metadata(
    dim: int,
    curvature: float,
    safety: SafetyProfile,
    *,
    fingerprint: str | None = None,
    lift: LiftChoice | None = None,
    sample: ArrayLike | None = None,
    quantization: Quantization | None = None,
) -> CollectionMetadata:
    """Decide how points are stored, and put together what is kept with the collection; see `Index.create`.

    Raises:
        SettingsError: Arguments are out of range or contradict each other.
        InvalidVectorError: The sample is not usable.
    """
    if isinstance(dim, bool) or not isinstance(dim, Integral) or dim < 1:
        raise SettingsError(f"dim is {dim!r}; expected a whole number of 1 or more")
    dim = int(dim)
    if not (math.isfinite(curvature) and curvature > 0):
        raise SettingsError(f"curvature is {curvature}; expected a finite number above 0 (the space has curvature −c)")
    if quantization is not None and quantization not in get_args(Quantization):
        raise SettingsError(
            f"unknown quantization {quantization!r}; expected one of {', '.join(get_args(Quantization))}, or None"
        )
    chosen, measured = _chosen(dim, curvature, safety, lift, sample)
    if quantization == "int8" and isinstance(chosen, PaddedLift) and chosen.rotate_seed is None:
        chosen = chosen.model_copy(update={"rotate_seed": ROTATE_SEED})
    if chosen.dim != dim:
        raise SettingsError(f"the lift or its sample is for points of dimension {chosen.dim}, the collection for {dim}")
    stored = chosen.to_dict().get("curvature")
    if stored is not None and not np.isclose(stored, curvature, rtol=1e-9, atol=0):
        raise SettingsError(f"the lift is for curvature {stored}, the collection for {curvature}")
    try:
        return CollectionMetadata(
            fingerprint=fingerprint or raw_fingerprint(dim, curvature, safety),
            dim=dim,
            curvature=curvature,
            lift=chosen.to_dict(),
            stamp=stamp_of(chosen.to_dict()),
            safety=safety,
            quantization=quantization,
            measured=measured,
        )
    except ValidationError as error:
        raise SettingsError(f"these describe no collection: {error}") from error


def _chosen(
    dim: int, curvature: float, safety: SafetyProfile, lift: LiftChoice | None, sample: ArrayLike | None
) -> tuple[Lift, dict[str, Any] | None]:
    """Return the lift, and what was measured if it was chosen by measurement."""
    if lift == "auto":
        if sample is None:
            raise SettingsError("lift='auto' measures on a sample of the points to come", hint="Give sample=points")
        from hysac_retrieval.lift.choose import choose_lift

        return choose_lift(sample, curvature)
    if lift == "poincare":
        return PoincareLift(curvature=curvature, dim=dim), None
    if isinstance(lift, str) and lift != "padded":
        raise SettingsError(f"unknown lift {lift!r}; expected 'padded', 'poincare', 'auto' or a lift")
    if lift is None or lift == "padded":
        if sample is not None:
            return PaddedLift.fit(sample, curvature), None
        return PaddedLift.default(dim, curvature, _reach(safety, curvature)), None
    if sample is not None:
        raise SettingsError("lift and sample both say how points are stored", hint="Give one of them")
    return (lift_from_dict(dict(lift)) if isinstance(lift, Mapping) else lift), None


def _reach(safety: SafetyProfile, curvature: float) -> float:
    """Return the radius that a default lift makes room for."""
    groups = [group for kind in MODALITIES for group in (safety.of(kind).safe, safety.of(kind).unsafe)]
    # The norm grows as e^(2√c r); 20/√c is the largest that a lift accepts.
    return float(min(max(group.mean + _MARGIN_SIGMAS * group.std for group in groups), 20 / curvature**0.5))


def spec_of(
    metadata: CollectionMetadata,
    hnsw: HnswOptions | None,
    storage: StorageOptions | None = None,
    fields: Mapping[str, IndexKind] | None = None,
) -> CollectionSpec:
    """Return what a store needs to make the collection that some metadata describes; `fields` are indexed, too."""
    fields = checked_fields(fields or {})
    lift = lift_from_dict(metadata.lift)
    return CollectionSpec(
        size=lift.size,
        metric=lift.metric,
        metadata=metadata.model_dump(mode="json", exclude_none=True),
        indexes={**fields, **payload_indexes(metadata.fingerprint)},
        hnsw=hnsw or HnswOptions(),
        quantization=metadata.quantization,
        storage=storage or StorageOptions(),
    )


def checked_fields(fields: Mapping[str, IndexKind]) -> Mapping[str, IndexKind]:
    """Return payload fields to index, or raise `SettingsError` for a kind of index that there is not."""
    if wrong := [f"{name!r}: {kind!r}" for name, kind in fields.items() if kind not in get_args(IndexKind)]:
        raise SettingsError(f"index of field {wrong[0]}; expected one of {', '.join(get_args(IndexKind))}")
    return fields


def make_collection(
    store: Store, name: str, metadata: CollectionMetadata, spec: CollectionSpec, *, exist_ok: bool
) -> Collection:
    """Make a collection, or open one of the same model, space and compression.

    Raises:
        CollectionExistsError: It exists, and `exist_ok` is not given.
        ModelMismatchError: It exists, and is of another model or space.
        SettingsError: It exists, and compresses its vectors in another way.
    """
    try:
        store.create(name, spec)
    except CollectionExistsError:
        if not exist_ok:
            raise
        for field, kind in spec.indexes.items():
            if field.partition(".")[0] != PAYLOAD_KEY:
                store.add_index(name, field, kind)
    collection = Collection.read(name, store.open(name), metadata.fingerprint)
    found, wanted = collection.metadata, metadata
    if found.dim != wanted.dim or not math.isclose(found.curvature, wanted.curvature, rel_tol=1e-12):
        raise ModelMismatchError(
            f"collection {name!r} holds points of dimension {found.dim} and curvature {found.curvature}; asked for "
            f"dimension {wanted.dim} and curvature {wanted.curvature}",
            hint="Give it another name, or recreate it",
        )
    if wanted.shard_by not in (None, found.shard_by):
        raise SettingsError(
            f"collection {name!r} exists and is divided by {found.shard_by or 'nothing'}, not by {wanted.shard_by}",
            hint="Leave the option out, or recreate the collection",
        )
    if wanted.quantization not in (None, found.quantization):
        raise SettingsError(
            f"collection {name!r} exists with quantization {found.quantization}, not {wanted.quantization}",
            hint="Leave the option out, or recreate the collection",
        )
    return collection
