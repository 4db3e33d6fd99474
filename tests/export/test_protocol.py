"""The published evaluation, to the last query, and what we measure beside it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support.golden import load_golden
from support.quadruplets import CURVATURE, profile_with, quadruplet_points

from hysac_export.evaluation.bootstrap import Bootstrap
from hysac_export.evaluation.metrics import retrievals
from hysac_export.evaluation.protocol import (
    SEARCHES,
    calibration_radii,
    published_bound,
    published_figures,
    published_move,
    published_search,
)
from hysac_export.model.encoded import EncodedSplit
from hysac_export.published.bounds import Bounds
from hysac_retrieval import lorentz

NAMES = {
    "text_safe": "safe_text",
    "vision_safe": "safe_image",
    "text_nsfw": "unsafe_text",
    "vision_nsfw": "unsafe_image",
}
BOUNDS = {"b": "bounds_json", "bs": "bounds_small_json"}


def golden_split(golden: dict[str, np.ndarray]) -> EncodedSplit:
    groups = {ours: golden[theirs] for theirs, ours in NAMES.items()}
    n = len(golden["text_safe"])
    return EncodedSplit(**groups, categories=np.full(n, "any"), context=np.zeros(n, dtype=bool))


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("alpha", [0.8, 2.5])
@pytest.mark.parametrize("kind", ["pct", "avg"])
def test_published_searches_with_bounds_equal_the_published_code(
    name: str, bounds: str, alpha: float, kind: str
) -> None:
    golden = load_golden("recalls_bounds")
    encoded, curvature, search = golden_split(golden), float(golden["curv"]), SEARCHES[name]
    group = Bounds.model_validate(json.loads(str(golden[BOUNDS[bounds]]))).of(search.bounded_by)
    bound = group.avg if kind == "avg" else {5: group.low_05, 95: group.up_95}[search.percentile]
    assert bound is not None
    queries = getattr(encoded, search.query)
    moved = published_move(queries, bound, curvature, outward=search.outward, alpha=alpha)
    for points, tag in ((queries, "notrv"), (moved, f"{bounds}_a{alpha}_{kind}")):
        found = published_search(encoded, search, points, curvature)
        np.testing.assert_array_equal([found.hits(k).mean() for k in (1, 10, 20)], golden[f"recall_{name}_{tag}_R"])
        assert (~found.harmful).mean() == golden[f"recall_{name}_{tag}_score"]


def test_bounds_come_from_the_radii_of_the_group_that_the_query_is_sent_to() -> None:
    radii = calibration_radii(profile_with(boundary=1.5, threshold=0.5))
    means = {name: published_bound(radii, search, "mean") for name, search in SEARCHES.items()}
    assert means == {"U2UandS": 1.0, "U2VandG": 2.0, "U2GandV": 4.0, "G2SandU": 1.0, "G2UandS": 3.0}
    imported = {**radii, "safe_text": radii["safe_text"].model_copy(update={"percentiles": {95: 1.1}})}
    assert published_bound(imported, SEARCHES["U2UandS"], "percentile") is None
    assert published_bound(imported, SEARCHES["G2SandU"], "percentile") == 1.1


def test_outward_moves_only_what_is_below_the_bound_and_never_the_origin() -> None:
    points = np.zeros((3, 4))
    points[1, 0], points[2, 0] = np.sinh(1.0), np.sinh(3.0)  # radii 0, 1, 3 at curvature 1
    moved = published_move(points, 0.8, 1.0, outward=True)  # tanh(0) = 0: the target is 1.8
    np.testing.assert_allclose(moved[:, 0], [0.0, 1.8, np.sinh(3.0)])
    assert lorentz.dist0(moved[1], 1.0) == pytest.approx(np.arcsinh(1.8))


def test_figures_agree_with_the_searches_that_are_evaluated_elsewhere() -> None:
    encoded = quadruplet_points(60, noise=1.0)
    profile = profile_with(boundary=1.5, threshold=0.5)
    figures = published_figures(encoded, CURVATURE, calibration_radii(profile), profile, Bootstrap(60, 20, 0))
    found = retrievals(encoded, CURVATURE, profile)
    for name, direction in (("U2VandG", "t2i"), ("G2SandU", "i2t")):
        for how, mode in (("none", "plain"), ("geodesic", "traversal")):
            assert figures[f"published.{name}.{how}.r1"].value == found[f"twin_{direction}.{mode}"].hits(1).mean()
            harmful = found[f"twin_{direction}.{mode}"].harmful.mean()
            assert figures[f"published.{name}.{how}.harmful1"].value == harmful
            assert figures[f"published.{name}.{how}.first"].value == pytest.approx(1 - harmful)
    # Outwards and to unsafe things: nothing of ours does that.
    assert not any(key.startswith(("published.U2GandV.geodesic", "published.G2UandS.geodesic")) for key in figures)
    assert "published.U2GandV.none.harmful1" not in figures


def test_a_euclidean_model_is_searched_as_asked_and_no_other_way() -> None:
    encoded = quadruplet_points(30)
    unit = {
        name: getattr(encoded, name) / np.linalg.norm(getattr(encoded, name), axis=1, keepdims=True)
        for name in NAMES.values()
    }
    figures = published_figures(replace(encoded, **unit), None, None, None, Bootstrap(30, 10, 0))
    assert {key.split(".")[2] for key in figures} == {"none"}
