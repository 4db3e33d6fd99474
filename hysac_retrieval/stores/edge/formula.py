"""Qdrant's formulas in the types of the embedded engine, whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores.edge.filter import CONDITIONS, edge_condition, edge_point


def edge_formula(query: models.FormulaQuery) -> Any:
    """Translate a formula.

    Raises:
        SettingsError: The formula holds something that the embedded engine has no counterpart for.
    """
    if type(query) is not models.FormulaQuery:
        raise SettingsError(f"a formula must be a qdrant_client.models.FormulaQuery, not {type(query).__name__}")
    try:
        return edge.Formula(_expression(query.formula), defaults=dict(query.defaults or {}))
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"the embedded engine cannot take this formula: {error}") from error


def _expression(expression: Any) -> Any:
    if isinstance(expression, str):
        return edge.Expression.Variable(expression)
    if isinstance(expression, int | float) and not isinstance(expression, bool):
        if not math.isfinite(expression):
            raise SettingsError(f"a formula holds the number {expression}; numbers in formulas must be finite")
        return edge.Expression.Constant(float(expression))
    if isinstance(expression, CONDITIONS):
        return edge.Expression.Condition(edge_condition(expression))
    # The exact type: a subclass could mean more than is read here.
    translate = _EXPRESSIONS.get(type(expression))
    if translate is None:
        raise SettingsError(f"the embedded engine knows no expression of type {type(expression).__name__}")
    return translate(expression)


def _several(expressions: list[Any]) -> list[Any]:
    return [_expression(expression) for expression in expressions]


def _decay(kind: Any, params: models.DecayParamsExpression) -> Any:
    return edge.Expression.Decay(
        kind,
        _expression(params.x),
        target=None if params.target is None else _expression(params.target),
        midpoint=params.midpoint,
        scale=params.scale,
    )


_EXPRESSIONS: dict[type, Callable[[Any], Any]] = {
    models.MultExpression: lambda e: edge.Expression.Mult(_several(e.mult)),
    models.SumExpression: lambda e: edge.Expression.Sum(_several(e.sum)),
    models.MaxExpression: lambda e: edge.Expression.Max(_several(e.max)),
    models.MinExpression: lambda e: edge.Expression.Min(_several(e.min)),
    models.NegExpression: lambda e: edge.Expression.Neg(_expression(e.neg)),
    models.AbsExpression: lambda e: edge.Expression.Abs(_expression(e.abs)),
    models.SqrtExpression: lambda e: edge.Expression.Sqrt(_expression(e.sqrt)),
    models.ExpExpression: lambda e: edge.Expression.Exp(_expression(e.exp)),
    models.LnExpression: lambda e: edge.Expression.Ln(_expression(e.ln)),
    models.Log10Expression: lambda e: edge.Expression.Log10(_expression(e.log10)),
    models.AcoshExpression: lambda e: edge.Expression.Acosh(_expression(e.acosh)),
    models.DivExpression: lambda e: edge.Expression.Div(
        _expression(e.div.left), _expression(e.div.right), e.div.by_zero_default
    ),
    models.PowExpression: lambda e: edge.Expression.Pow(_expression(e.pow.base), _expression(e.pow.exponent)),
    models.DatetimeExpression: lambda e: edge.Expression.Datetime(e.datetime),
    models.DatetimeKeyExpression: lambda e: edge.Expression.DatetimeKey(e.datetime_key),
    models.GeoDistance: lambda e: edge.Expression.GeoDistance(edge_point(e.geo_distance.origin), e.geo_distance.to),
    models.LinDecayExpression: lambda e: _decay(edge.DecayKind.Lin, e.lin_decay),
    models.ExpDecayExpression: lambda e: _decay(edge.DecayKind.Exp, e.exp_decay),
    models.GaussDecayExpression: lambda e: _decay(edge.DecayKind.Gauss, e.gauss_decay),
}
