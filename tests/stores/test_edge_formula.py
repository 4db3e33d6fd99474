"""The embedded engine's formulas against those of qdrant-client's local mode: one formula, equal scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
from qdrant_client import models
from support.spaces import match

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores import CollectionSpec, Store, VectorQuery
from hysac_retrieval.stores.edge.formula import edge_formula
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.qdrant.store import QdrantStore

BERLIN = models.GeoPoint(lat=52.5, lon=13.4)
PAYLOADS: list[dict[str, Any]] = [
    {"n": 1.5, "colour": "red", "at": "2024-01-01T00:00:00Z", "where": {"lat": 48.9, "lon": 2.35}},
    {"n": 4, "colour": "blue", "at": "2025-06-01T12:00:00Z", "where": {"lat": 35.7, "lon": 139.7}},
    {"colour": "red", "at": "2023-01-01T00:00:00Z", "where": {"lat": 52.5, "lon": 13.4}},
]
DECAY = models.DecayParamsExpression(x="n", target=2.0, scale=3.0, midpoint=0.4)
CASES: dict[str, Any] = {
    "constant": 2.5,
    "variable": "n",
    "score": "$score",
    "condition": match("colour", "red"),
    "condition of several parts": models.Filter(must=[match("colour", "red")], must_not=[match("n", 4)]),
    "mult": models.MultExpression(mult=["n", 2.0, "$score"]),
    "sum": models.SumExpression(sum=["n", "$score"]),
    "max": models.MaxExpression(max=["n", 2.0]),
    "min": models.MinExpression(min=["n", 2.0]),
    "neg": models.NegExpression(neg="n"),
    "abs": models.AbsExpression(abs=models.SumExpression(sum=["n", -3.0])),
    "sqrt": models.SqrtExpression(sqrt="n"),
    "exp": models.ExpExpression(exp="n"),
    "ln": models.LnExpression(ln="n"),
    "log10": models.Log10Expression(log10="n"),
    "acosh": models.AcoshExpression(acosh="n"),
    "div": models.DivExpression(div=models.DivParams(left=1.0, right="n")),
    "div by zero": models.DivExpression(div=models.DivParams(left=1.0, right=0.0, by_zero_default=7.0)),
    "pow": models.PowExpression(pow=models.PowParams(base="n", exponent=2.0)),
    "datetime": models.SumExpression(
        sum=[
            models.DatetimeKeyExpression(datetime_key="at"),
            models.NegExpression(neg=models.DatetimeExpression(datetime="2024-01-01T00:00:00Z")),
        ]
    ),
    "geo": models.GeoDistance(geo_distance=models.GeoDistanceParams(origin=BERLIN, to="where")),
    "lin": models.LinDecayExpression(lin_decay=DECAY),
    "exp decay": models.ExpDecayExpression(exp_decay=DECAY),
    "gauss": models.GaussDecayExpression(gauss_decay=models.DecayParamsExpression(x="n")),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    both: dict[str, Store] = {"edge": EdgeStore(tmp_path_factory.mktemp("formulas")), "memory": QdrantStore.connect()}
    for store in both.values():
        store.create("c", CollectionSpec(size=2, metadata={"a": 1}))
        store.upsert("c", [0, 1, 2], np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32), PAYLOADS)
    yield both
    for store in both.values():
        store.close()


@pytest.mark.parametrize("case", CASES)
def test_a_formula_gives_the_same_scores_on_every_store(stores: dict[str, Store], case: str) -> None:
    formula = models.FormulaQuery(formula=CASES[case], defaults={"n": 3.0})
    query = VectorQuery(np.array([[2.0, 1.0]], dtype=np.float32), limit=3, formulas=[formula], candidates=3)
    edge, memory = ({p.id: p.score for p in stores[s].query("c", query)[0]} for s in ("edge", "memory"))
    assert set(edge) == {0, 1, 2}
    # Great-circle distances are computed on slightly different radii of the earth.
    assert edge == pytest.approx(memory, rel=2e-3 if case == "geo" else 1e-5, abs=1e-6)
    if case not in ("constant", "div by zero"):
        assert len({round(score or 0.0, 6) for score in edge.values()}) > 1


def test_every_kind_of_expression_is_covered() -> None:
    def kinds(value: Any) -> Iterator[type]:
        yield type(value)
        if hasattr(value, "model_fields_set"):
            for name in value.model_fields_set:
                inner = getattr(value, name)
                for item in inner if isinstance(inner, list) else [inner]:
                    yield from kinds(item)

    seen = {kind for case in CASES.values() for kind in kinds(case)}
    wanted = {kind for kind in get_args(models.Expression) if isinstance(kind, type) and kind.__name__ != "str"}
    wanted -= set(get_args(models.Condition))
    assert wanted - seen == set()


class Unheard:
    """An expression that no engine knows."""


class Narrower(models.SqrtExpression):
    """An expression that could mean more than its base."""


@pytest.mark.parametrize(
    "formula",
    [
        models.FormulaQuery.model_construct(formula=Unheard()),
        models.FormulaQuery.model_construct(formula=models.SumExpression.model_construct(sum=[1.0, Unheard()])),
        models.FormulaQuery.model_construct(formula=models.SumExpression.model_construct(sum=3)),
        models.FormulaQuery.model_construct(formula=True),
        models.FormulaQuery.model_construct(formula=Narrower(sqrt=1.0)),
        models.FormulaQuery(formula=float("nan")),
        models.FormulaQuery(formula=models.Filter.model_construct(must=[Unheard()])),
        type("Wider", (models.FormulaQuery,), {})(formula=1.0),
        {"formula": 1.0},
    ],
)
def test_what_cannot_be_translated_is_refused(formula: Any) -> None:
    with pytest.raises(SettingsError):
        edge_formula(formula)
