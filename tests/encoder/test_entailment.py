from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from support.toy_bundle import profile, write_toy_bundle

from hysac_retrieval import lorentz
from hysac_retrieval.encoder.bundle import Bundle, write_manifest
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.entailment import Cone, Entailment, level_of

CURVATURE = 1.0
HALF = Cone(half_aperture=math.pi / 4, matched=0.9, unmatched=0.1)


def at(radius: float, degrees: float) -> Any:
    """A point of the plane at a radius and an angle around the origin."""
    turn = math.radians(degrees)
    return lorentz.exp_map0(np.array([math.cos(turn), math.sin(turn)]) * radius, CURVATURE)


@pytest.mark.parametrize(
    ("radius", "level"),
    [(0.0, "T"), (1.2, "T"), (1.25, "T"), (1.3, "I"), (1.8, "T*"), (2.2, "T*"), (2.3, "I*"), (9.0, "I*")],
)
def test_a_radius_stands_for_the_group_whose_mean_is_nearest(radius: float, level: str) -> None:
    # Means: safe text 1, safe image 1.5, unsafe text 2, unsafe image 2.5.
    assert level_of(radius, profile()) == level


@pytest.mark.parametrize("power", [1, 3])
def test_angles_are_those_of_flat_triangles_with_powers_of_the_radii(power: float) -> None:
    x, y = np.array([1.0, 0.0]), np.array([math.cos(0.3), math.sin(0.3)]) * 2**power
    turned = y - x
    found = Entailment(power=power, cones={"T<I": HALF}).angle(at(1, 0), at(2, math.degrees(0.3)), CURVATURE)
    assert found == pytest.approx(math.atan2(turned[1], turned[0]))


def test_a_text_entails_what_is_in_its_cone_by_the_relation_of_their_groups() -> None:
    cones: Any = {"T<I": HALF, "T<T*": Cone(half_aperture=0.01, matched=0, unmatched=0), "T<I*": HALF, "T*<I*": HALF}
    entailment = Entailment(power=1, cones=cones)
    texts = np.stack([at(1, 0), at(1, 40), at(1, 170), at(2, 0), at(2.4, 0)])

    def named(point: Any) -> list[Any]:
        return entailment.relations(texts, point, CURVATURE, profile())

    # Texts at 2 and beyond are unsafe; nothing unsafe entails a safe image.
    assert named(at(1.5, 0)) == ["T<I", None, None, None, None]
    assert named(at(1.5, 40)) == [None, "T<I", None, None, None]
    # The third is by a cone so narrow that only the very direction is inside.
    assert named(at(2.0, 0.1)) == ["T<T*", None, None, None, None]
    assert named(at(2.0, 5)) == [None] * 5
    assert named(at(2.6, 0)) == ["T<I*", None, None, "T*<I*", "T*<I*"]
    # What is as far in as the safe texts is entailed by none.
    assert named(at(1.1, 0)) == [None] * 5


@pytest.mark.parametrize(
    "values",
    [
        {"power": 1, "cones": {}},
        {"power": 0.5, "cones": {"T<I": HALF}},
        {"power": 1, "cones": {"I<T": HALF}},
        {"power": 1, "cones": {"T<I": {"half_aperture": 1.6, "matched": 1, "unmatched": 0}}},
        {"power": 1, "cones": {"T<I": HALF}, "version": 3},
    ],
)
def test_a_calibration_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Entailment.model_validate(values)


def test_a_bundle_keeps_its_cones_and_its_fingerprint(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "model")
    assert bundle.manifest.entailment is None  # as in bundles that were written before there were any
    entailment = Entailment(power=1, cones={"T<I": HALF}, source="toy")
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"entailment": entailment}))
    assert Encoder.load(bundle.path).entailment == entailment
    assert Bundle.load(bundle.path).fingerprint == bundle.fingerprint
    # Those of the first version were of other angles: such a bundle has none, and loads.
    path = bundle.path / "hysac.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["entailment"] = {"version": 1, "scale": 0.5, "cones": manifest["entailment"]["cones"]}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert Encoder.load(bundle.path).entailment is None
    assert Bundle.load(bundle.path).fingerprint == bundle.fingerprint
