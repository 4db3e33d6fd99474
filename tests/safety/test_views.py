"""What of an item was judged: the worst view scores it, in a collection, after a rescore and as a query."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.spaces import CURVATURE, STORES, index_on, profile, random_points

from hysac_retrieval import connect, lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.views import Views
from hysac_retrieval.errors import InputError
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.views import Judged, judged, stored_views, worst_radius
from hysac_retrieval.search.queries import Examples, PointRef
from hysac_retrieval.stores.amend import Amendment

NEAR, FAR = 2.0, 3.6  # radii of images that are surely safe and surely unsafe


def at(radius: float, n: int = 1) -> Any:
    return lorentz.traverse(random_points(n, low=4.0, high=4.1), np.full(n, radius), CURVATURE)


def own(index: Index, identity: int) -> dict[str, Any]:
    return dict(index.retrieve([identity])[0].payload["hysac"])


@pytest.mark.parametrize("store", STORES)
def test_the_score_is_that_of_the_worst_view_and_the_vector_that_of_its_own(store: str, tmp_path: Path) -> None:
    with index_on(store, tmp_path) as index:
        views = [Judged(3, "left", FAR), Judged(1, "image", NEAR), None, Judged(4, "right", 1.0)]
        index.upsert(range(4), at(NEAR, 4), modality="image", judged=views)
        hidden, plain, alone, nearer = (own(index, row) for row in range(4))
        assert hidden["radius"] == pytest.approx(NEAR)
        assert hidden["unsafe"] == pytest.approx(float(profile().unsafe(FAR, "image")))
        assert (hidden["views"], hidden["worst"]) == (3, {"view": "left", "radius": FAR})
        assert "views" not in plain
        assert plain == alone
        assert nearer["unsafe"] == alone["unsafe"]  # never better than the vector's own radius
        assert {hit.id for hit in index.query(at(NEAR)[0], safe=True)} == {1, 2, 3}
        (hit,) = (hit for hit in index.query(at(NEAR)[0], safe=False) if hit.id == 0)
        assert (hit.views, hit.worst, hit.radius) == (3, "left", pytest.approx(NEAR))  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("radius", [math.nan, math.inf, -1.0])
def test_a_radius_that_is_none_is_refused(radius: float, tmp_path: Path) -> None:
    with index_on("memory", tmp_path) as index, pytest.raises(InputError, match="row 1"):
        index.upsert([1, 2], at(NEAR, 2), modality="image", judged=[None, Judged(2, "x", radius)])


@pytest.mark.parametrize("store", STORES)
def test_a_rescore_goes_by_the_worst_view(store: str, tmp_path: Path) -> None:
    old = profile()
    looser = SafetyProfile(
        text=old.text,
        image=old.image.model_copy(update={"midpoint": old.image.midpoint + 0.1}),
        threshold=0.5,
        source="looser",
    )
    with index_on(store, tmp_path) as index:
        index.upsert([0, 1], at(NEAR, 2), modality="image", judged=[Judged(2, "left", FAR), Judged(2, "left", 2.85)])
        rescore(index, looser)
        assert own(index, 0)["unsafe"] == pytest.approx(float(looser.unsafe(FAR, "image")))
        assert {hit.id for hit in index.query(at(NEAR)[0], safe=True)} == {1}


@pytest.mark.parametrize(
    "damage", [{"worst": "left"}, {"worst": {"view": "left"}}, {"worst": {"radius": "9"}}, {"worst": None}]
)
def test_a_point_whose_worst_view_cannot_be_read_is_unsafe_after_a_rescore(
    damage: dict[str, Any], tmp_path: Path
) -> None:
    with index_on("memory", tmp_path) as index:
        index.upsert([0], at(NEAR), modality="image", judged=[Judged(2, "left", 2.3)])
        radius, model = own(index, 0)["radius"], index.metadata.fingerprint
        index.store.amend(index.name, [Amendment(0, damage, model, radius, 2.3)])
        new = SafetyProfile(text=profile().text, image=profile().image, threshold=0.4)
        report = rescore(index, new)
        assert (report.unreadable, own(index, 0)["unsafe"]) == (1, 1.0)


@pytest.mark.parametrize("store", STORES)
def test_an_amendment_is_not_made_to_a_point_that_was_judged_anew(store: str, tmp_path: Path) -> None:
    with index_on(store, tmp_path) as index:
        for before, now in ((None, 3.0), (2.5, 3.0), (2.5, None)):
            views = [None if now is None else Judged(2, "left", now)]
            index.upsert([0], at(NEAR), modality="image", judged=views)
            entries = own(index, 0)
            late = Amendment(0, {"unsafe": 0.0}, index.metadata.fingerprint, entries["radius"], before)
            index.store.amend(index.name, [late])
            assert own(index, 0) == entries


def test_what_a_point_says_of_its_views_fails_closed() -> None:
    assert worst_radius({"radius": 2.0}) == 2.0
    assert worst_radius({"radius": 2.0, "views": 2, "worst": {"view": "a", "radius": 3.0}}) == 3.0
    assert worst_radius({"radius": 4.0, "views": 2, "worst": {"view": "a", "radius": 3.0}}) == 4.0
    for broken in ({}, {"radius": 2.0, "views": 2}, {"radius": 2.0, "worst": [1]}, {"radius": 2.0, "views": [1]}):
        assert worst_radius(broken) is None
    assert stored_views({"radius": 2.0}) is None
    found = stored_views({"radius": 2.0, "views": 2})
    assert found is not None
    assert found.radius == math.inf


def test_the_first_of_equally_bad_views_is_the_worst() -> None:
    assert judged(["a", "b", "c"], [1.0, 2.0, 2.0]) == Judged(3, "b", 2.0)


class _Hiding(Encoder):
    """The toy model, which sees a red corner of a green picture as a further view."""

    def judge_image(self, images: Any, *, batch_size: int = 32) -> Any:  # type: ignore[override]
        views = []
        for image in images:
            pixels = self.preprocess_images([image, image.crop((0, 0, 4, 4))])
            views.append(Views(("image", "corner"), pixels))
        return self.judge_views("image", views, batch_size=batch_size)


def _picture(colour: str, corner: str) -> Image.Image:
    image = Image.new("RGB", (16, 16), colour)
    image.paste(corner, (0, 0, 4, 4))
    return image


@pytest.mark.parametrize("traversal", ["geodesic", "adaptive"])
def test_a_query_that_hides_something_unsafe_is_treated_as_unsafe(traversal: Any, toy_bundle: Path) -> None:
    encoder = _Hiding.load(toy_bundle, threads=1)
    hiding, plain = _picture("green", "red"), _picture("green", "green")
    policy = SafetyPolicy(traversal=traversal)
    with connect("toy", location=":memory:", model=encoder, create=True, policy=policy) as engine:
        points, views = encoder.judge_image([hiding, plain])
        engine.index.upsert([0, 1], points, modality="image", judged=views)
        for query in (hiding, PointRef(0), Examples((plain, hiding))):
            info = engine.search(query, safe=True).query
            assert info.unsafe > 0.9
            assert info.redirected
            assert info.radius_searched == info.radius < 1.6
            assert engine.search(query, safe=False).query.redirected is False
        info = engine.search(hiding).query
        assert (info.views, info.worst) == (2, "corner")
        assert engine.search(plain).query.redirected is False
        assert {hit.id for hit in engine.search(hiding)} == {1}


def test_views_are_encoded_a_few_at_a_time_and_the_first_gives_the_point(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.load(toy_bundle, threads=1)
    rng = np.random.default_rng(0)
    items = [Views(tuple("abcdefg"[:k]), rng.integers(0, 255, (k, 16, 16, 3), dtype=np.uint8)) for k in (1, 7, 2, 2, 3)]
    most: list[int] = []
    encode = encoder.encode_image

    def noted(rows: Any, **options: Any) -> Any:
        most.append(len(rows))
        return encode(rows, **options)

    monkeypatch.setattr(encoder, "encode_image", noted)
    points, found = encoder.judge_views("image", items, batch_size=4)
    assert most == [1, 4, 3, 4, 3]
    for item, point, one in zip(items, points, found, strict=True):
        alone = encode(item.rows)
        radii = lorentz.dist0(alone.astype(np.float64), encoder.curvature)
        np.testing.assert_allclose(point, alone[0], rtol=1e-5, atol=1e-6)
        assert one == Judged(len(item.names), item.names[int(np.argmax(radii))], pytest.approx(float(radii.max())))
