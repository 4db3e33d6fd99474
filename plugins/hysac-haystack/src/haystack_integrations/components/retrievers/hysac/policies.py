"""Safety policies as plain values, so that a saved pipeline keeps its policy."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from haystack.utils import deserialize_callable, serialize_callable

from hysac_retrieval import LabelRule, SafetyPolicy
from hysac_retrieval.errors import SettingsError


def policy_to_dict(policy: SafetyPolicy) -> dict[str, Any]:
    """Return a policy as plain values; its audit is named by its import path.

    Raises:
        SerializationError: The audit is a lambda, a method or a nested function.
    """
    plain = {field.name: getattr(policy, field.name) for field in fields(policy)}
    plain["rules"] = [_rule_to_dict(rule) for rule in policy.rules]
    plain["audit"] = None if policy.audit is None else serialize_callable(policy.audit)
    return plain


def policy_from_dict(plain: dict[str, Any]) -> SafetyPolicy:
    """Make a policy from plain values.

    Raises:
        SettingsError: They are not a policy's.
        DeserializationError: Haystack may not import from the audit's module.
    """
    values = dict(plain)
    if unknown := values.keys() - {field.name for field in fields(SafetyPolicy)}:
        raise SettingsError(f"unknown setting {', '.join(sorted(unknown))} of a policy")
    values["rules"] = tuple(LabelRule(**rule) for rule in values.get("rules", ()))
    if values.get("audit") is not None:
        values["audit"] = deserialize_callable(values["audit"])
    return SafetyPolicy(**values)


def _rule_to_dict(rule: LabelRule) -> dict[str, Any]:
    plain = asdict(rule)
    return plain | {name: None if plain[name] is None else list(plain[name]) for name in ("deny", "allow")}
