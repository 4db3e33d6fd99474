"""Policies: limits of an engine's searches, fixed when the engine is made and out of a caller's reach."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

from qdrant_client import models

from hysac_retrieval.errors import SettingsError, UnsafeNotAllowedError
from hysac_retrieval.results import Hit, QueryInfo
from hysac_retrieval.safety.filters import checked_count, checked_safe
from hysac_retrieval.safety.redirect import Traversal
from hysac_retrieval.safety.thresholds import AnyThreshold, as_threshold, effective_threshold
from hysac_retrieval.types import MODALITIES, PointId, Thresholds

Label: TypeAlias = str | int | bool
"""Label of a category in a payload field."""

Unknown = Literal["redirect", "ask", "refuse"]
"""How a query is searched that is unlike what the model knows."""

LEAST_KNOWN = 0.5
"""Share of a text that the model must know for its score to say anything. Of 4,000 captions with words that training
has not shown, none is known less than 0.65; of sentences in other languages, none more than 0.35."""

Operation = Literal["search", "search_groups", "explain"]


@dataclass(frozen=True, slots=True)
class LabelRule:
    """A rule on the labels that the points carry in a payload field: a single value, or a list of them.

    Args:
        key: The payload field, such as ``category`` or ``meta.category``.
        deny: Labels of which a point may carry none.
        allow: The only labels that a point may carry; a point without any does not pass. Strings, integers, or one
            boolean; None for no such condition.
        always: Whether the rule also holds for ``safe=False``.

    Raises:
        SettingsError: The rule says nothing, contradicts itself, or names labels of another type.
    """

    key: str
    deny: tuple[Label, ...] = ()
    allow: tuple[Label, ...] | None = None
    always: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key.strip():
            raise SettingsError(f"the key of a rule is {self.key!r}; expected the name of a payload field")
        object.__setattr__(self, "deny", _labels(self.deny, "deny"))
        if self.allow is None:
            if not self.deny:
                raise SettingsError(
                    f"the rule on {self.key!r} neither denies nor allows a label", hint="Give deny or allow"
                )
            return
        allow = _labels(self.allow, "allow")
        object.__setattr__(self, "allow", allow)
        kinds = {type(label) for label in allow}
        if len(kinds) != 1 or (bool in kinds and len(allow) > 1):
            raise SettingsError(
                f"the rule on {self.key!r} allows {allow}; expected strings, integers, or one of True and False"
            )
        if both := [label for label in allow if any(_same(label, other) for other in self.deny)]:
            raise SettingsError(f"the rule on {self.key!r} both denies and allows {both[0]!r}")

    def condition(self) -> models.Filter:
        """Return the rule as a filter for inside the search.

        An engine takes a list for a match when any element matches. That is what `deny` needs; `allow` must say beside
        it that no element is another one.
        """
        on, must = partial(models.FieldCondition, key=self.key), list[Any]()
        must_not: list[Any] = [on(match=models.MatchValue(value=x)) for x in self.deny if isinstance(x, bool)]
        numbers = [x for x in self.deny if isinstance(x, int) and not isinstance(x, bool)]
        words = [x for x in self.deny if isinstance(x, str)]
        must_not += [on(match=models.MatchAny(any=group)) for group in (words, numbers) if group]
        # 3.0 is no match for the integer 3, but means the same.
        must_not += [on(range=models.Range(gte=number, lte=number)) for number in numbers]
        if self.allow and isinstance(self.allow[0], bool):
            # No match is "anything but this boolean"; a single value that is this one leaves no room for another.
            must += [on(match=models.MatchValue(value=self.allow[0])), on(values_count=models.ValuesCount(lte=1))]
        elif self.allow:
            labels: Any = list(self.allow)
            must.append(on(match=models.MatchAny(any=labels)))
            must_not.append(on(match=models.MatchExcept(**{"except": labels})))
        return models.Filter(must=must or None, must_not=must_not or None)

    def admits(self, payload: Mapping[str, Any]) -> bool:
        """Whether a point with this payload meets the rule, as `condition` says to an engine.

        An engine looks a condition up in an index on the field, if there is one, and an index holds labels of one type
        only: in a list that mixes types it does not see the others. So points that were found are checked once more.
        """
        value: Any = payload
        for part in self.key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        labels = [label for label in (value if isinstance(value, list) else [value]) if label is not None]
        if "[]" in self.key:  # leads into a list of objects, which is left to the engine
            return True
        if any(_same(label, wrong) for label in labels for wrong in self.deny):
            return False
        allow = self.allow
        return allow is None or (bool(labels) and all(any(_same(label, right) for right in allow) for label in labels))


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Record of a search that was allowed unsafe results, made before the caller gets its answer.

    Attributes:
        collection: The collection searched.
        operation: Method that was called.
        asked: Each query in words: a text itself, the path of an image, the ids of stored points.
        queries: Score, radius and redirect of each query.
        options: Options that the call gave, as JSON values.
        hits: Ids of the hits of each query.
        context: Facts that the caller gave about itself, such as the user's name.
    """

    collection: str
    operation: Operation
    asked: tuple[str, ...]
    queries: tuple[QueryInfo, ...]
    options: Mapping[str, Any]
    hits: tuple[tuple[PointId, ...], ...]
    context: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; JSON-serialisable if the context is."""
        return {**asdict(self), "options": dict(self.options), "context": dict(self.context)}


@dataclass(frozen=True, slots=True)
class SafetyPolicy:
    """Limits of an engine's searches. Immutable; no option of a call reaches beyond them.

    Args:
        threshold: Largest unsafe score of a hit of a safe search: a number, or one for each modality, such as
            ``{"image": 0.05}``; None for the model's own. Never above the model's for that modality.
        max_threshold: Largest threshold that a single call may name, up to the model's own; None: a call may only be
            stricter. Results beyond the model's threshold are asked for with ``safe=False``.
        allow_unsafe: Whether ``safe=False`` may be asked for.
        traversal: How unsafe queries are redirected: ``"geodesic"`` onto the boundary, ``"adaptive"`` no farther than
            safe results need, ``"none"`` not at all.
        steps: Points of an adaptive path from the query to the boundary, both included, 2 to 64.
        top: Nearest points that must be safe for an adaptive path to stop there, 1 to 100.
        unknown: A text that is mostly unknown to the model (see `LEAST_KNOWN`) is treated as unsafe when it asks for
            safe results (``"redirect"``), or searched by what the model makes of it (``"ask"``). ``"refuse"`` makes
            it an error, and with it a picture that is unlike all that the model knows.
        rules: Conditions on the labels of hits.
        trust_reviews: Whether a safe search also returns points that a person decided are safe, whatever their score.
            A call that names a threshold asks for scores, and gets none above it.
        audit: Called with every search that is allowed unsafe results, before its results are returned. If it raises,
            they are not. With an asynchronous engine it is called from a worker thread.

    Raises:
        SettingsError: A setting is out of range.
    """

    threshold: AnyThreshold | None = None
    max_threshold: AnyThreshold | None = None
    allow_unsafe: bool = True
    traversal: Traversal = "geodesic"
    steps: int = 8
    top: int = 5
    unknown: Unknown = "redirect"
    rules: tuple[LabelRule, ...] = ()
    trust_reviews: bool = False
    audit: Callable[[AuditRecord], None] | None = None

    def __post_init__(self) -> None:
        for name in ("allow_unsafe", "trust_reviews"):
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        if self.traversal not in (known := get_args(Traversal)):
            raise SettingsError(f"unknown traversal {self.traversal!r}; expected one of {', '.join(known)}")
        if self.unknown not in (ways := get_args(Unknown)):
            raise SettingsError(f"unknown is {self.unknown!r}; expected one of {', '.join(ways)}")
        for name in ("threshold", "max_threshold"):
            object.__setattr__(self, name, given := as_threshold(getattr(self, name)))
            effective_threshold(given, Thresholds.both(1.0))
        usual, most = (_each(given) for given in (self.threshold, self.max_threshold))
        if any(most.of(kind) < usual.of(kind) < math.inf for kind in MODALITIES):
            raise SettingsError(f"max_threshold is {self.max_threshold}, below the threshold of {self.threshold}")
        checked_count(self.steps, "steps", 64, least=2)
        checked_count(self.top, "top", 100)
        object.__setattr__(self, "rules", tuple(self.rules))
        if wrong := [rule for rule in self.rules if not isinstance(rule, LabelRule)]:
            raise SettingsError(f"a rule is {type(wrong[0]).__name__}; expected a LabelRule")
        if self.audit is not None and (not callable(self.audit) or inspect.iscoroutinefunction(self.audit)):
            raise SettingsError("audit must be an ordinary function: a coroutine would never run")

    def bounds(self, calibrated: Thresholds) -> tuple[Thresholds, Thresholds]:
        """Return the thresholds of a safe search that names none, and the largest that one may name.

        Raises:
            SettingsError: This policy is looser than `calibrated`, the model's thresholds.
        """
        usual = effective_threshold(self.threshold, calibrated)
        if self.max_threshold is None:
            return usual, usual
        most = effective_threshold(self.max_threshold, calibrated)
        return usual, Thresholds(**{kind: max(usual.of(kind), most.of(kind)) for kind in MODALITIES})

    def threshold_for(self, requested: AnyThreshold | None, calibrated: Thresholds) -> Thresholds:
        """Return the thresholds of a search that names `requested` (None for the usual ones); see `bounds`.

        Raises:
            SettingsError: It is looser than this policy allows.
        """
        usual, most = self.bounds(calibrated)
        return effective_threshold(requested, most, usual)

    def trusts_reviews(self, requested: AnyThreshold | None) -> bool:
        """Whether a safe search that names `requested` (None for the usual threshold) goes by decisions as well."""
        return self.trust_reviews and requested is None

    def expect_allowed(self, safe: bool) -> None:
        """Check that a search may be asked for.

        Raises:
            UnsafeNotAllowedError: It is allowed unsafe results, which this policy forbids.
            SettingsError: `safe` is no boolean.
        """
        if not checked_safe(safe) and not self.allow_unsafe:
            raise UnsafeNotAllowedError(
                "safe=False was asked for, but this engine only returns safe results",
                hint="Make it with SafetyPolicy(allow_unsafe=True) for callers who may see the others",
            )

    def rules_of(self, safe: bool) -> tuple[LabelRule, ...]:
        """Return the rules that hold for a search."""
        return self.rules if safe else tuple(rule for rule in self.rules if rule.always)

    def admitted(self, hits: Sequence[Hit], safe: bool) -> tuple[Hit, ...]:
        """Return those of a search's hits that meet its rules: nearly always all; see `LabelRule.admits`."""
        rules = self.rules_of(safe)
        return tuple(hit for hit in hits if all(rule.admits(hit.payload) for rule in rules))


def rules_condition(rules: Iterable[LabelRule]) -> models.Filter | None:
    """Return the condition that points meet all of some rules; None for no rules."""
    conditions: list[Any] = [rule.condition() for rule in rules]
    return models.Filter(must=conditions) if conditions else None


def _each(named: AnyThreshold | None) -> Thresholds:
    """Return what `as_threshold` gave for each modality, infinite where none is named."""
    if isinstance(named, Thresholds):
        return named
    return Thresholds.both(math.inf if named is None else float(named))  # type: ignore[arg-type]  # a number


def _labels(given: Iterable[Label], what: str) -> tuple[Label, ...]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise SettingsError(f"{what} is {given!r}; expected several labels, such as ('violence', 'weapons')")
    labels = tuple(given)
    if wrong := [label for label in labels if not isinstance(label, str | int)]:
        raise SettingsError(f"{what} names {wrong[0]!r}; a label is a string, an integer or a boolean")
    # Sets have no order of their own; a policy should look the same every time.
    return tuple(sorted(labels, key=lambda label: (type(label).__name__, label)))


def _same(found: Any, label: Label) -> bool:
    """Whether what a payload holds is a label; 1.0 is 1, and True is neither."""
    return bool(found == label) and isinstance(found, bool) == isinstance(label, bool)
