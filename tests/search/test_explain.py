from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.spaces import CURVATURE, DIM, STORES, index_on, match, nearest, profile, random_points

from hysac_retrieval import lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.entailment import Cone, Entailment
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.explain import Explanation, Selectivity

# Texts lie on few rays, so that cones hold something: general ones near the origin, special ones behind them.
RAYS = np.repeat(np.random.default_rng(2).normal(size=(4, DIM)), 8, axis=0)
RAYS += 0.05 * np.random.default_rng(3).normal(size=RAYS.shape)
RADII = np.tile(np.linspace(0.3, 3.2, 8), 4)[:, None]
TEXTS = lorentz.exp_map0(RAYS / np.linalg.norm(RAYS, axis=1, keepdims=True) * RADII, CURVATURE)
IMAGES = random_points(20, seed=8)


@pytest.fixture(scope="module", params=STORES)
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with index_on(request.param, tmp_path_factory.mktemp("explain")) as made:
        made.upsert(range(32), TEXTS, modality="text", payloads=[{"text": f"text {row}"} for row in range(32)])
        made.upsert(range(100, 120), IMAGES, modality="image", payloads=[{"file": "a.png"}] * 20)
        yield made


def unsafe(points: Any, kind: Any) -> Any:
    return profile().unsafe(lorentz.dist0(points, CURVATURE), kind)


@pytest.mark.parametrize("traversal", ["geodesic", "adaptive", "none"])
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_way_and_what_entails_it_agree_with_the_geometry(
    index: Index, seed: int, safe: bool, traversal: Any
) -> None:
    query = lorentz.exp_map0(RAYS[8 * seed] / np.linalg.norm(RAYS[8 * seed]) * 3.1, CURVATURE)
    engine = SafeSearch(index, None, policy=SafetyPolicy(traversal=traversal))
    options: Any = {"query_modality": "text", "safe": safe}
    found = engine.explain(query, steps=6, near=4, **options)
    assert found.query == engine.search(query, **options).query
    assert found.boundary == profile().text.boundary
    assert found.cones
    assert [step.searched for step in found.steps].count(True) == 1

    spaced = [step.radius for step in found.steps if not step.searched or len(found.steps) == 6]
    np.testing.assert_allclose(spaced, np.linspace(3.1, 0, 6), atol=1e-9)
    texts_shown = unsafe(TEXTS, "text") <= (0.5 if safe else 1)
    images_shown = unsafe(IMAGES, "image") <= (0.5 if safe else 1)
    everything = np.concatenate([TEXTS[texts_shown], IMAGES[images_shown]])
    names = [*np.flatnonzero(texts_shown), *(100 + np.flatnonzero(images_shown))]
    for step in found.steps:
        point = lorentz.traverse(query, step.radius, CURVATURE)
        assert step.unsafe == pytest.approx(float(unsafe(point, "text")))
        assert step.counts_unsafe == (step.unsafe > 0.5)
        assert step.beyond == (step.radius > profile().text.boundary + 1e-6)
        inside = lorentz.exterior_angle(TEXTS, point[None, :], CURVATURE) <= lorentz.half_aperture(TEXTS, CURVATURE)
        expected = [row for row in nearest(point, TEXTS) if inside[row] and texts_shown[row]][:4]
        assert [hit.id for hit in step.entailing] == expected
        distances = np.sort(lorentz.dist(everything, point, CURVATURE))[:4]
        np.testing.assert_allclose([hit.distance for hit in step.nearest], distances, atol=1e-4)
        assert {hit.id for hit in step.nearest} <= set(names)
    # Along its own ray, the query is entailed by more general texts only.
    assert all(float(RADII[int(hit.id), 0]) < found.steps[0].radius for hit in found.steps[0].entailing)
    assert found.steps[0].entailing


def test_without_texts_it_says_that_nothing_entails_the_query(index: Index) -> None:
    engine = SafeSearch(index, None)
    only = {"must": [match("file", "a.png").model_dump(exclude_none=True)]}
    found = engine.explain(IMAGES[0], safe=False, filter=only)
    assert not found.cones
    assert all(step.nearest and not step.entailing for step in found.steps)
    assert found.boundary == min(profile().text.boundary, profile().image.boundary)


class Calibrated:
    """An encoder that only knows its cones; queries are points."""

    def __init__(self, index: Index, entailment: Entailment | None) -> None:
        self.fingerprint = index.metadata.fingerprint
        self.dim, self.curvature, self.safety, self.lift = DIM, CURVATURE, profile(), None
        self.entailment = entailment

    def encode_text(self, texts: list[str], /) -> Any:
        raise AssertionError(texts)

    encode_image = encode_text


CONES: Any = {"T<I": Cone(half_aperture=1.0, matched=0.9, unmatched=0.2)}
CONES |= {"T<T*": Cone(half_aperture=0.7, matched=0.8, unmatched=0.1)}


@pytest.mark.parametrize("safe", [True, False])
def test_calibrated_cones_name_what_entails_a_step_and_how_selective_they_are(index: Index, safe: bool) -> None:
    query = lorentz.exp_map0(RAYS[8] / np.linalg.norm(RAYS[8]) * 2.9, CURVATURE)
    entailment = Entailment(power=2, cones=CONES)
    engine = SafeSearch(index, Calibrated(index, entailment))
    found = engine.explain(query, query_modality="text", steps=6, near=20, safe=safe)
    assert found.selectivity == {"T<I": Selectivity(0.9, 0.2), "T<T*": Selectivity(0.8, 0.1)}
    general = unsafe(TEXTS, "text") <= 0.5
    for step in found.steps:
        assert len(step.relations) == len(step.entailing)
        # Mean radii: safe text 1.94, safe image 2.42, unsafe text 2.78, unsafe image 3.16.
        relation: Any = {True: None, step.radius > 2.18: "T<I", step.radius > 2.6: "T<T*"}[True]
        if relation is None or step.radius > 2.97:
            assert step.entailing == ()
            continue
        point = lorentz.traverse(query, step.radius, CURVATURE)
        angles = lorentz.radial_angle(TEXTS, point[None, :], CURVATURE, 2)
        inside = general & (angles <= entailment.cones[relation].half_aperture)
        expected = [row for row in nearest(point, TEXTS) if inside[row]]
        assert [hit.id for hit in step.entailing] == expected[:20]
        assert set(step.relations) == {relation}
    assert found.steps[0].entailing


def test_a_model_whose_cones_were_not_calibrated_has_the_published_ones(index: Index) -> None:
    query = lorentz.exp_map0(RAYS[8] / np.linalg.norm(RAYS[8]) * 2.9, CURVATURE)
    options: Any = {"query_modality": "text", "steps": 4}
    without = SafeSearch(index, Calibrated(index, None)).explain(query, **options)
    assert without == SafeSearch(index, None).explain(query, **options)
    assert without.selectivity == {}
    assert {relation for step in without.steps for relation in step.relations} == {None}


def test_texts_and_neighbours_are_asked_for_in_one_request_each(index: Index) -> None:
    asked = []

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(index.store, name)

        def query(self, name: str, query: Any) -> Any:
            asked.append(query)
            return index.store.query(name, query)

    SafeSearch(Index(index.collection, Counted()), None).explain(IMAGES[0], steps=5)  # type: ignore[arg-type]
    assert len(asked) == 2


@pytest.mark.parametrize(
    "options", [{"steps": 1}, {"steps": 65}, {"near": 0}, {"near": 21}, {"limit": 3}, {"offset": 1}]
)
def test_options_out_of_range_are_refused(index: Index, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        SafeSearch(index, None).explain(IMAGES[0], **options)


@pytest.fixture
def explanation(index: Index) -> Explanation:
    query = lorentz.exp_map0(RAYS[0] / np.linalg.norm(RAYS[0]) * 3.1, CURVATURE)
    return SafeSearch(index, None).explain(query, query_modality="text", steps=5)


def test_it_turns_into_json(explanation: Explanation) -> None:
    value = json.loads(json.dumps(explanation.to_dict()))
    assert len(value["steps"]) == len(explanation.steps)
    assert value["steps"][0]["entailing"][0]["id"] == explanation.steps[0].entailing[0].id
