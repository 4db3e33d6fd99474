"""Encoders and forks: sessions have threads, which stay behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.forking import run_forking

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")]


def test_a_graph_loaded_before_a_fork_is_refused_after_it_and_the_parent_goes_on(toy_bundle: Path) -> None:
    lines = run_forking(
        """
        from PIL import Image
        encoder, picture = Encoder.load(sys.argv[1], threads=2), Image.new("RGB", (8, 8))
        encoder.encode_text(["a dog"])
        print(child(lambda: encoder.encode_text(["a cat"] * 3)))
        print(child(lambda: encoder.encode_image([picture] * 40), lambda: sys.exit(0)))
        print(encoder.encode_text(["a cat"] * 3).shape[0], encoder.encode_image([picture] * 40).shape[0])
        """,
        toy_bundle,
    )
    for refused in lines[:2]:
        assert refused.startswith("ForkedError")
        assert "Encoder.load" in refused
    assert lines[2] == "3 40"


def test_an_encoder_that_has_loaded_no_graph_yet_serves_every_process(toy_bundle: Path) -> None:
    lines = run_forking(
        """
        encoder = Encoder.load(sys.argv[1])
        print(child(lambda: encoder.encode_text(["a cat"] * 3).shape[0]))
        print(child(lambda: encoder.encode_text(["a cat"] * 3).shape[0], lambda: sys.exit(0)))
        print(encoder.encode_text(["a cat"]).shape[0])
        """,
        toy_bundle,
    )
    assert lines == ["done 3", "done 3", "1"]
