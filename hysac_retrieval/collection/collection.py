"""A collection apart from its store: name, metadata, abilities of its engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from hysac_retrieval.collection.metadata import ATTACH_HINT, CollectionMetadata, read_metadata, same_points
from hysac_retrieval.collection.watch import Watch
from hysac_retrieval.errors import ModelMismatchError, NotACollectionError, SettingsError
from hysac_retrieval.lift import Lift, lift_from_dict
from hysac_retrieval.payload import BEYOND, MODALITY, MODEL, PAYLOAD_KEY, SOURCE, UNSAFE
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.safety.verdict import REVIEW, REVIEWED_UNSAFE, SAFE, flag_key
from hysac_retrieval.stores.types import IndexKind, Opened


def payload_indexes(fingerprint: str) -> dict[str, IndexKind]:
    """Return the payload fields to index in a collection with points of a model.

    Those that hold the others are among them: an index learns that its own key was deleted, but not one above it.
    """
    fields: dict[str, IndexKind] = {
        UNSAFE: "float",
        MODALITY: "keyword",
        MODEL: "keyword",
        BEYOND: "bool",
        SOURCE: "keyword",
        PAYLOAD_KEY: "keyword",
        SAFE: "keyword",
    }
    return fields | {flag_key(fingerprint): "bool"}


def rule_indexes(policy: SafetyPolicy | None) -> dict[str, IndexKind]:
    """Return the payload fields that a policy asks about, with the kind of index that they need."""
    kinds: dict[type, IndexKind] = {str: "keyword", bool: "bool", int: "integer"}
    if policy is None:
        return {}
    reviews: dict[str, IndexKind] = {REVIEW: "keyword", REVIEWED_UNSAFE: "bool"} if policy.trust_reviews else {}
    return reviews | {rule.key: kinds[type((*(rule.allow or ()), *rule.deny)[0])] for rule in policy.rules}


def top_field(path: str) -> str:
    """Return the field of a payload in which a path such as ``meta.tags[]`` begins."""
    if path.startswith('"'):
        return path[1:].partition('"')[0]
    return path.partition(".")[0].partition("[")[0]


@dataclass(frozen=True)
class Collection:
    """A collection apart from its store.

    Attributes:
        name: Its name.
        metadata: Its metadata.
        formula: Whether the engine can compute geodesic distances in a second stage.
        estimates: Whether the engine only estimates counts.
        asked: Name that it was opened by: of an application's collection, where this is its companion.
        watch: Decides when to read the metadata again.
    """

    name: str
    metadata: CollectionMetadata
    formula: bool = False
    estimates: bool = False
    asked: str = ""
    watch: Watch = field(default_factory=Watch, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", self.asked or self.name)

    @classmethod
    def read(cls, name: str, opened: Opened, expect_fingerprint: str | None = None, *, asked: str = "") -> Self:
        """Check what a store says about a collection, and read it.

        Raises:
            NotACollectionError: It lacks the vector or the metadata, or they do not fit each other.
            ModelMismatchError: Another model made it.
        """
        what = f"collection {name!r}"
        metadata = read_metadata(name, opened)
        scores_only = metadata.attached is not None and metadata.attached.scores_only
        if opened.size is None and not scores_only:
            raise NotACollectionError(f"{what} exists but has no vector named 'hysac'", hint=ATTACH_HINT)
        try:
            lift = lift_from_dict(metadata.lift)
        except ValueError as error:
            raise NotACollectionError(f"{what} has metadata that this version cannot read: {error}") from error
        found, needed = (opened.size, opened.metric), (lift.size, lift.metric)
        if (found != needed and not scores_only) or lift.dim != metadata.dim:
            raise NotACollectionError(
                f"{what} has vectors of length {found[0]} compared by {found[1]}, but its metadata describes "
                f"{needed[0]} and {needed[1]} for points of dimension {lift.dim} where {metadata.dim} was declared",
                hint="Index again",
            )
        collection = cls(name, metadata, opened.formula, opened.estimates, asked)
        if expect_fingerprint is not None:
            collection.expect(expect_fingerprint)
        return collection

    @property
    def scores_only(self) -> bool:
        """Whether it is one of an application that has scores and no vectors of this package."""
        return self.metadata.attached is not None and self.metadata.attached.scores_only

    def expect_vectors(self) -> None:
        """Check that there are vectors to rank by.

        Raises:
            NotACollectionError: There are scores only.
        """
        if self.scores_only:
            raise NotACollectionError(
                f"collection {self.name!r} has scores only, and no vectors of hysac to rank by",
                hint="Guard the application's own queries with SafeQdrantClient, or add vectors: `hysac attach "
                "--companion`",
            )

    def expect_labels(self, keys: Iterable[str]) -> None:
        """Check that rules on payload fields can be held: a companion has copies of some fields only.

        Raises:
            SettingsError: One is on a field that the companion has no copy of.
        """
        attached = self.metadata.attached
        if attached is None or attached.companion != self.name:
            return
        held = {top_field(label) for label in attached.labels}
        if lacking := [key for key in keys if top_field(key) not in held]:
            raise SettingsError(
                f"a rule is on {lacking[0]!r}, of which {self.name!r}, beside {attached.collection!r}, has no copy",
                hint=f"Attach again with `hysac attach --label {lacking[0]}`",
            )

    def expect(self, fingerprint: str) -> None:
        """Check which model the collection was indexed with.

        Raises:
            ModelMismatchError: It was another one.
        """
        own = self.metadata.fingerprint
        if fingerprint == own:
            return
        if same_points(fingerprint, own):
            raise ModelMismatchError(
                f"collection {self.name!r} carries scores of calibration {own}, but this is the same model with "
                f"calibration {fingerprint}",
                hint=f"Apply that one with `hysac rescore {self.name}`, or load the model with the calibration that "
                "the collection has",
            )
        raise ModelMismatchError(
            f"collection {self.name!r} was indexed with model {own}, but this is model {fingerprint}; their points "
            "cannot be compared",
            hint="Load the model it was indexed with, or index again",
        )

    @cached_property
    def lift(self) -> Lift:
        """Lift by which points are stored."""
        return lift_from_dict(self.metadata.lift)
