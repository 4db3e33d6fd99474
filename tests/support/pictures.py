"""Small pictures for the toy model, to which red means unsafe."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

COLOURS = {"grass.png": "green", "sea.jpg": "blue", "deep/snow.webp": "white", "deep/blood.png": "red"}
"""Files of `write_pictures`; only the last is unsafe."""


def write_pictures(folder: Path) -> Path:
    """Write the pictures, and beside them what a folder of pictures also holds."""
    for name, colour in COLOURS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), colour).save(folder / name)
    (folder / "notes.txt").write_text("not a picture", encoding="utf-8")
    (folder / ".thumbs").mkdir()
    Image.new("RGB", (8, 8)).save(folder / ".thumbs" / "small.png")
    return folder


def write_truncated(path: Path) -> Path:
    """Write the first half of a picture."""
    Image.effect_noise((64, 64), 80).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path
