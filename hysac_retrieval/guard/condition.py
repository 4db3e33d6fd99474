"""The condition that keeps unsafe points out of an application's own queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

from qdrant_client import AsyncQdrantClient, models

from hysac_retrieval.collection.collection import Collection, rule_indexes
from hysac_retrieval.collection.metadata import CollectionMetadata, read_metadata
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.guard.scoring import Scoring
from hysac_retrieval.guard.shown import checked_keys
from hysac_retrieval.guard.values import taken
from hysac_retrieval.payload import own_payload
from hysac_retrieval.safety.filters import or_reviewed, safety_filter, search_filter
from hysac_retrieval.safety.policy import LabelRule, SafetyPolicy, rules_condition
from hysac_retrieval.safety.thresholds import AnyThreshold, effective_threshold
from hysac_retrieval.safety.verdict import safe_score
from hysac_retrieval.stores import Connection, opening
from hysac_retrieval.stores.qdrant.store import AsyncQdrantStore
from hysac_retrieval.stores.types import Opened
from hysac_retrieval.types import MODALITIES, Modality, Thresholds

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.ingest import Content, IndexReport, StoredVectors

Kind = TypeVar("Kind")


def expect_kind(value: Any, kind: type[Kind], name: str) -> Kind | None:
    """Return an argument; raise `SettingsError` if it is given and of another type."""
    if value is not None and not isinstance(value, kind):
        raise SettingsError(f"{name} is {type(value).__name__}; expected a {kind.__name__}")
    return value


@dataclass(frozen=True, slots=True)
class Guard:
    """Condition under which a point of a collection is safe: a score in range, given by the collection's model.

    Made by `open` or `of`; or from its parts, where an application knows them.

    Args:
        fingerprint: Identity of the model that gave the scores.
        threshold: Largest unsafe score of a safe point, 0 to 1: a number, or one for each modality; kept as
            `Thresholds`.
        rules: A further condition that a safe point must meet, in the search.
        labels: Rules on labels that a safe point must meet, in the search and in the look at what comes back.
        trust_reviews: Whether a point is safe, too, that a person decided is; see `SafetyPolicy`.
        scoring: How `score` gives points their scores; `open` and `aopen` know.

    Raises:
        SettingsError: The threshold is out of range, or there is no fingerprint.
    """

    fingerprint: str
    threshold: AnyThreshold
    rules: models.Filter | None = None
    labels: tuple[LabelRule, ...] = ()
    trust_reviews: bool = False
    scoring: Scoring | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.fingerprint, str) or not self.fingerprint:
            raise SettingsError(f"the fingerprint is {self.fingerprint!r}; expected that of the collection's model")
        if self.threshold is None:
            raise SettingsError("there is no threshold", hint="Guard.of takes that of the collection's calibration")
        found = effective_threshold(self.threshold, Thresholds.both(1.0))
        if isinstance(self.threshold, Mapping) and len(self.threshold) < len(MODALITIES):
            raise SettingsError(
                f"threshold names {next(iter(self.threshold))} only", hint="Give one for text and image"
            )
        object.__setattr__(self, "threshold", found)

    @classmethod
    def of(cls, metadata: CollectionMetadata, policy: SafetyPolicy | None = None) -> Self:
        """The guard of a collection.

        Args:
            metadata: The collection's metadata.
            policy: Its threshold, its rules and `trust_reviews` count; a guard is always safe, whatever else a policy
                allows.

        Raises:
            SettingsError: The policy is looser than the model's calibration.
        """
        chosen = expect_kind(policy, SafetyPolicy, "policy") or SafetyPolicy()
        bound = chosen.threshold_for(None, metadata.safety.threshold)
        return cls(metadata.fingerprint, bound, labels=chosen.rules, trust_reviews=chosen.trust_reviews)

    @classmethod
    def open(
        cls,
        name: str,
        *,
        policy: SafetyPolicy | None = None,
        model: str | Path | Encoder = "hysac-mini",
        content: Content | StoredVectors | None = None,
        **connection: Unpack[Connection],
    ) -> Self:
        """The guard of a collection, from its metadata.

        Args:
            name: The collection: made by this package, or one of an application that it is attached to.
            policy: See `of`.
            model: For `score`: the model that it is attached with; loaded when it is first needed.
            content: For `score`: payload fields to encode; None for those that it was attached with.
            **connection: Where it lives; see `Connection`.

        Raises:
            CollectionNotFoundError: There is none of that name.
            NotACollectionError: It has no metadata of this package; `hysac index attach` gives it some.
        """
        with opening(connection, keep=False) as (store, _):
            made = cls.read(name, store.open(name), policy)
            store.admit(name, rule_indexes(policy))
        return replace(made, scoring=Scoring(name, connection, model, content))

    @classmethod
    async def aopen(
        cls,
        client: AsyncQdrantClient,
        name: str,
        *,
        policy: SafetyPolicy | None = None,
        model: str | Path | Encoder = "hysac-mini",
        content: Content | StoredVectors | None = None,
    ) -> Self:
        """As `open`, for an application's asynchronous client."""
        store = AsyncQdrantStore(client)
        made = cls.read(name, await store.open(name), policy)
        await store.admit(name, rule_indexes(policy))
        return replace(made, scoring=Scoring(name, client, model, content))

    @classmethod
    def read(cls, name: str, opened: Opened, policy: SafetyPolicy | None = None) -> Self:
        """The guard of a collection, from what a store says about it; see `open`.

        Raises:
            SettingsError: The policy has a rule on a field that the collection, a companion, has no copy of.
        """
        metadata = read_metadata(name, opened)
        made, attached = cls.of(metadata, policy), metadata.attached
        if attached is not None and opened.size is not None and name != attached.collection:
            # Perhaps under an alias.
            Collection(attached.companion or name, metadata).expect_labels(rule.key for rule in made.labels)
        return made

    def score(self, ids: Sequence[Any]) -> IndexReport:
        """Give scores to points of an application that it has just written, and their verdicts with them.

        Call it after the application's own writes; until then the new points are not safe. Points that have a score for
        the same content are left as they are, and ids that are not there are no error.

        Args:
            ids: The points.

        Raises:
            SettingsError: This guard was not made by `open`, or it is not known what the points are about.
            ModelMismatchError: The collection is attached with another model.
        """
        return self._scoring().score(ids)

    async def ascore(self, ids: Sequence[Any]) -> IndexReport:
        """As `score`, without blocking; also for a guard that `aopen` has made."""
        return await self._scoring().ascore(ids)

    def _scoring(self) -> Scoring:
        if self.scoring is None:
            raise SettingsError("this guard knows no collection to score points of", hint="Make it by Guard.open")
        return self.scoring

    @property
    def thresholds(self) -> Thresholds:
        """The threshold of each modality."""
        return cast(Thresholds, self.threshold)  # made so when the guard was

    def filter(
        self, user: models.Filter | Mapping[str, Any] | None = None, *, modality: Modality | None = None
    ) -> models.Filter:
        """The condition of a query: safe, and the caller's own filter.

        It belongs at the root of a query and into every prefetch, as a model or as ``to_json`` gives it. Every call
        makes a new one: changing it changes no other query.

        Args:
            user: The caller's own filter, as a model or in its JSON form. It is nested whole, so that nothing in it can
                widen the result.
            modality: Kind of points to find; None for any.

        Raises:
            SettingsError: The filter is none.
        """
        safety = safety_filter(self.thresholds, self.fingerprint)
        if self.trust_reviews:
            safety = or_reviewed(safety, self.fingerprint, strict=True)
        rules: list[Any] = [one for one in (self.rules, rules_condition(self.labels)) if one is not None]
        joined = search_filter(
            safety,
            modality=modality,
            user=taken("filter", user),
            rules=models.Filter(must=rules) if rules else None,
        )
        if joined is None:  # cannot be: there is a threshold
            raise SettingsError("a guard without a condition would let everything through")
        return joined.model_copy(deep=True)  # its parts are shared by all searches

    def admits(self, payload: Mapping[str, Any]) -> bool:
        """Whether a payload says that its point is safe: what an engine found by `filter` is held to this."""
        own, trusts = own_payload(payload), self.trust_reviews
        score = safe_score(own, self.fingerprint, self.thresholds, trust_reviews=trusts)
        return score is not None and all(rule.admits(payload) for rule in self.labels)

    @property
    def checked_keys(self) -> tuple[str, ...]:
        """Top-level payload keys that `admits` looks at."""
        return checked_keys(self.labels)

    def to_json(
        self, user: models.Filter | Mapping[str, Any] | None = None, *, modality: Modality | None = None
    ) -> str:
        """The condition in the JSON form that Qdrant takes, for requests that are built elsewhere; see `filter`."""
        return self.filter(user, modality=modality).model_dump_json(exclude_none=True, by_alias=True)
