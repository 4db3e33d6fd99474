"""The verdict that a point carries: its score, and under `hysac.safe` whether that is safe, by the model's fingerprint.

One indexed boolean keeps unsafe points out of a search, at no cost that can be measured. What comes back is looked at
once more: an index may outlive the payload, and a value may be a list, of which engines match any element.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from hysac_retrieval.payload import PAYLOAD_KEY, finite_number, short_numbers
from hysac_retrieval.safety.views import SECOND, Second
from hysac_retrieval.types import Thresholds

SAFE = f"{PAYLOAD_KEY}.safe"
"""Payload field with a verdict for each model."""

EARLIER = f"{PAYLOAD_KEY}.earlier"
"""Payload field with the scores of calibrations that are being superseded, by the name of their verdict."""

REVIEW = f"{PAYLOAD_KEY}.review"
"""Payload field with a person's decision."""

REVIEWED_UNSAFE = f"{REVIEW}.unsafe"
"""Payload field that says what was decided."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


@lru_cache(maxsize=64)
def flag_name(fingerprint: str) -> str:
    """Return the key of a model's verdict under `SAFE`: its fingerprint, or a hash where that is no plain word."""
    # A dot, a bracket or a quote would be read as a path by the engines.
    return fingerprint if _PLAIN.fullmatch(fingerprint) else hashlib.sha256(fingerprint.encode()).hexdigest()[:32]


def flag_key(fingerprint: str) -> str:
    """Return the payload field, such as ``hysac.safe.<fingerprint>``, with the verdict of a model."""
    return f"{SAFE}.{flag_name(fingerprint)}"


def kept_out(own: Mapping[str, Any]) -> bool:
    """Whether a person's decision keeps a point out of every safe search, whatever its score. Fails closed.

    A decision that it is safe lets in what its score keeps out only where a policy says so; see `reviewed_score`.
    """
    return own.get("review") is not None and decision_of(own) is not False


def decision_of(own: Mapping[str, Any]) -> bool | None:
    """Return whether a person decided that a point is unsafe; None where nobody did, or nothing plain is said."""
    review = own.get("review")
    unsafe = review.get("unsafe") if isinstance(review, Mapping) else None
    return unsafe if isinstance(unsafe, bool) else None


def verdict(unsafe: float, threshold: float, fingerprint: str) -> dict[str, Any]:
    """Return what a point that nobody has reviewed carries for a score: ``unsafe``, ``model`` and ``safe``.

    Args:
        unsafe: Score in [0, 1].
        threshold: Largest score that counts as safe for a point of its modality.
        fingerprint: Model that gave the score.
    """
    return {"unsafe": unsafe, "model": fingerprint, "safe": {flag_name(fingerprint): unsafe <= threshold}}


def judged_verdict(unsafe: float, threshold: float, fingerprint: str, second: Second | None) -> dict[str, Any]:
    """Return the `verdict` by the worse of a model's score and a second judge's.

    What is unsafe to the second judge is not safe, whatever the threshold of the model.
    """
    if second is None:
        return verdict(unsafe, threshold, fingerprint)
    scaled = min(short_numbers([second.scaled(threshold)], up=True)[0], 1.0 if second.unsafe else threshold)
    found = verdict(max(unsafe, scaled), threshold, fingerprint)
    return found | {"safe": dict.fromkeys(found["safe"], False)} if second.unsafe else found


def superseding(own: Mapping[str, Any], entries: Mapping[str, Any], kept: Iterable[str]) -> dict[str, Any]:
    """Return what a point carries for a new score while searches with earlier calibrations of its model go on.

    Args:
        own: The point's ``hysac`` payload so far.
        entries: Its new `verdict`.
        kept: Fingerprints of the calibrations whose verdicts and scores stay, where it has one of them.
    """
    scores, verdicts = own.get("earlier"), own.get("safe")
    known = dict(scores) if isinstance(scores, Mapping) else {}
    if isinstance(own.get("model"), str):
        known[flag_name(own["model"])] = own.get("unsafe")
    flags = verdicts if isinstance(verdicts, Mapping) else {}
    names = [flag_name(fingerprint) for fingerprint in kept]
    names = [name for name in names if name in flags and finite_number(known.get(name)) is not None]
    safe = {**{name: flags[name] for name in names}, **entries["safe"]}
    if kept_out(own):
        safe = dict.fromkeys(safe, False)
    return {**entries, "safe": safe, "earlier": {name: known[name] for name in names}}


def score_of(own: Mapping[str, Any], fingerprint: str) -> float | None:
    """Return the score that a calibration gave, the last one or one that it supersedes; None if there is none."""
    if own.get("model") == fingerprint:
        unsafe = own.get("unsafe")
    else:
        earlier = own.get("earlier")
        unsafe = earlier.get(flag_name(fingerprint)) if isinstance(earlier, dict) else None
    return unsafe if type(unsafe) is float and unsafe >= 0.0 else finite_number(unsafe)  # a float as nearly always


def valid_score(own: Mapping[str, Any], fingerprint: str) -> float | None:
    """Return the score in [0, 1] that a model gave, from a point's ``hysac`` payload; None for anything else."""
    unsafe = score_of(own, fingerprint)
    return unsafe if unsafe is not None and unsafe <= 1 else None


def _held_unsafe(entry: Any) -> bool:
    opinion = Second.stored({SECOND: entry})
    return opinion is not None and opinion.unsafe


def safe_score(
    own: Mapping[str, Any], fingerprint: str, thresholds: Thresholds, *, trust_reviews: bool = False
) -> float | None:
    """Return the score of a point whose ``hysac`` payload says that it is safe; None for any other. Fails closed.

    Safe is a point by its score, by the model that gave it, by that model's verdict, to a second judge if there was
    one, and where no person has decided otherwise. The score is held to the threshold of the modality that the point
    has now, without a valid one to the stricter. With `trust_reviews` a point is safe by `reviewed_score`, too.
    """
    unsafe, verdicts = score_of(own, fingerprint), own.get("safe")
    if (
        unsafe is not None
        and ((second := own.get(SECOND)) is None or not _held_unsafe(second))
        and unsafe <= thresholds.of(own.get("modality"))
        and isinstance(verdicts, dict)
        and verdicts.get(flag_name(fingerprint)) is True
        and (own.get("review") is None or not kept_out(own))
    ):
        return unsafe
    return reviewed_score(own, fingerprint) if trust_reviews else None


def reviewed_score(own: Mapping[str, Any], fingerprint: str) -> float | None:
    """Return the score of a point that a person decided is safe, whatever it is; None for any other. Fails closed.

    It must have a score and a verdict of this model all the same: what the model has never judged, or judged under
    another calibration, is not where a search with this one expects it.
    """
    verdicts = own.get("safe")
    if (
        decision_of(own) is False
        and isinstance(verdicts, Mapping)
        and isinstance(verdicts.get(flag_name(fingerprint)), bool)
    ):
        return valid_score(own, fingerprint)
    return None
