"""What a threshold costs, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.toy_bundle import profile

from hysac_export.evaluation.roc import STEPS, roc, write_roc

SAFE, UNSAFE = np.array([1.0, 1.1, 1.2, 1.6]), np.array([1.1, 1.8, 2.0])
"""Radii of texts; the toy profile holds them unsafe from 1.5 on."""


def test_every_threshold_is_counted_by_hand() -> None:
    found = roc(profile(), {"safe_text": SAFE, "unsafe_text": UNSAFE, "safe_image": SAFE})
    assert list(found) == ["text"]
    text = found["text"]
    # Of 12 pairs, 1.1 beats one, ties with one and loses to two; the others win but for 1.6, which they beat as well.
    assert text["auc"] == pytest.approx((1.5 + 4 + 4) / 12)
    assert text["chosen"] == {"threshold": 0.5, "miss": pytest.approx(1 / 3), "lost": 0.25}
    radii = [1.0, 1.1, 1.2, 1.6, 1.8, 2.0]
    expected = [(0, 1), (0, 3 / 4), (1 / 3, 2 / 4), (1 / 3, 1 / 4), (1 / 3, 0), (2 / 3, 0), (1, 0)]
    assert [step["threshold"] for step in text["curve"]] == pytest.approx([0, *profile().unsafe(radii, "text")])
    assert [(step["miss"], step["lost"]) for step in text["curve"]] == [pytest.approx(pair) for pair in expected]


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    radii = {"safe_image": rng.normal(1.5, 0.1, 2000), "unsafe_image": rng.normal(2.0, 0.3, 900)}
    found = roc(profile(), radii)
    curve = found["image"]["curve"]
    assert len(curve) == STEPS
    assert (curve[0]["lost"], curve[-1]["miss"], curve[-1]["lost"]) == (1, 1, 0)
    assert np.all(np.diff([step["miss"] for step in curve]) >= 0)
    assert np.all(np.diff([step["lost"] for step in curve]) <= 0)
    written, picture = write_roc(found, tmp_path / "a" / "roc.json", "toy")
    assert json.loads(written.read_text(encoding="utf-8")) == found
    assert picture.read_bytes().startswith(b"\x89PNG")
