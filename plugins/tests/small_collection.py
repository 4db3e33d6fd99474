"""A small collection of the toy model, to which a text that names a weapon is unsafe, and an image the redder it is."""

from __future__ import annotations

from PIL import Image

from hysac_retrieval import Encoder, SafeSearch

TEXTS = ["a man in the park", "a man with a gun", "a dog", "a cat with a knife", "the red house", "blood in the house"]
PICTURES = {10: "green", 11: "red", 12: "blue"}
SAFE = {0, 2, 4, 10, 12}
"""Ids of what is safe among them."""

SAFE_IDS = {str(one) for one in SAFE}
"""The same, as documents and nodes have them."""


def fill(engine: SafeSearch, encoder: Encoder) -> None:
    """Put six texts and three pictures into a collection."""
    rows = [{"text": text, "k": row} for row, text in enumerate(TEXTS)]
    engine.index.upsert(range(6), encoder.encode_text(TEXTS), modality="text", payloads=rows)
    images = [Image.new("RGB", (16, 16), colour) for colour in PICTURES.values()]
    rows = [{"file": f"{colour}.png", "caption": f"all {colour}", "k": key} for key, colour in PICTURES.items()]
    engine.index.upsert(list(PICTURES), encoder.encode_image(images), modality="image", payloads=rows)
