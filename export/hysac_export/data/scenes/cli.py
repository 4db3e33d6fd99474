"""Commands that show, check and write scenes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from random import Random

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hysac_export.data.scenes.captions import caption
from hysac_export.data.scenes.draw import Artist, Pixels
from hysac_export.data.scenes.sampling import Quadruplet, quadruplets
from hysac_export.data.scenes.splits import SPLITS, styles_for

GALLERY_SEED = 2026
"""Seed of the example gallery, a part of the split `test` that no evaluation uses."""
GALLERY_QUADRUPLETS = 150

_split = click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True)
_seed = click.option("--seed", type=int, default=0, show_default=True)


@click.group()
def scenes() -> None:
    """Show, check and write the scenes that models are trained on."""


@scenes.command()
@_split
@_seed
@click.option("-n", "count", type=click.IntRange(1), default=24, show_default=True, help="Quadruplets.")
@click.option("--columns", type=click.IntRange(1), default=4, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="PNG to write.")
def sheet(split: str, seed: int, count: int, columns: int, out: Path) -> None:
    """Write a contact sheet: each safe scene next to its unsafe twin, with a caption of each."""
    artist, rng = Artist(styles_for(split)), np.random.default_rng(seed)
    contact_sheet(quadruplets(split, count, seed), artist, rng, columns).save(out)


@scenes.command()
@_split
@_seed
@click.option("-n", "count", type=click.IntRange(1), default=1000, show_default=True, help="Quadruplets.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
def write(split: str, seed: int, count: int, out: Path) -> None:
    """Write quadruplets as images and quadruplets.jsonl."""
    artist, rng = Artist(styles_for(split)), np.random.default_rng(seed)
    (out / "images").mkdir(parents=True, exist_ok=True)
    with (out / "quadruplets.jsonl").open("w", encoding="utf-8") as lines:
        for place, q in enumerate(quadruplets(split, count, seed)):
            row: dict[str, object] = {}
            for side, scene in (("safe", q.safe), ("unsafe", q.unsafe)):
                file = f"images/{place:06d}-{side}.webp"
                _save(artist.draw(scene, rng), out / file)
                row |= {f"{side}_image": file, f"{side}_caption": caption(scene, rng)}
                row[f"{side}_entities"] = scene.entities
            row |= {"setting": q.safe.setting, "light": q.safe.light, "category": q.category, "context": q.context}
            lines.write(json.dumps(row) + "\n")


@scenes.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("hysac_retrieval/demo/gallery"),
    show_default=True,
    help="Folder to write.",
)
def gallery(out: Path) -> None:
    """Write the example gallery of the runtime: scenes of unseen combinations, safe and unsafe, in no order."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    with (out / "captions.jsonl").open("w", encoding="utf-8") as lines:
        for row, pixels in gallery_scenes():
            _save(pixels, out / "images" / str(row["file"]))
            lines.write(json.dumps(row) + "\n")


@scenes.command()
@_split
@_seed
@click.option("-n", "count", type=click.IntRange(100), default=4000, show_default=True, help="Quadruplets.")
def check(split: str, seed: int, count: int) -> None:
    """Print how well anything but the content tells safe from unsafe scenes (AUC; 0.5 is chance)."""
    from hysac_export.data.scenes.checks import leaks

    for suspect, auc in leaks(split, count, seed).items():
        click.echo(f"{suspect:12} {auc:.3f}")


def gallery_scenes() -> Iterator[tuple[dict[str, object], Pixels]]:
    """The rows of the gallery's captions.jsonl with their pictures, (64, 64, 3)."""
    found = quadruplets("test", GALLERY_QUADRUPLETS, GALLERY_SEED)
    rows = [(scene, q.category if scene.unsafe else "") for q in found for scene in (q.safe, q.unsafe)]
    Random(GALLERY_SEED).shuffle(rows)
    # Less grain than in training: it would fill most of the package data.
    artist, rng = Artist(styles_for("test"), noise=0.05), np.random.default_rng(GALLERY_SEED)
    for place, (scene, category) in enumerate(rows):
        pixels = artist.draw(scene, rng)
        text = caption(scene, rng)
        yield {"file": f"{place:03d}.webp", "caption": text, "unsafe": scene.unsafe, "category": category}, pixels


def contact_sheet(found: list[Quadruplet], artist: Artist, rng: np.random.Generator, columns: int = 4) -> Image.Image:
    """Draw quadruplets for people to look at: safe on the left, unsafe on the right, captions below."""
    edge, gap, text = 3 * artist.size, 6, 98
    width, height = 2 * edge + 3 * gap, edge + text + gap
    rows = -(-len(found) // columns)
    page = Image.new("RGB", (columns * width, rows * height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for place, q in enumerate(found):
        for scene, shift in ((q.safe, 0), (q.unsafe, edge + gap)):
            x, y = place % columns * width + gap + shift, place // columns * height + gap
            picture = Image.fromarray(artist.draw(scene, rng)).resize((edge, edge), Image.Resampling.NEAREST)
            page.paste(picture, (x, y))
            colour = "#b3261e" if scene.unsafe else "#1b6e3a"
            pen.rectangle((x - 2, y - 2, x + edge + 1, y + edge + 1), outline=colour, width=2)
            note = f" ({q.category}{', context' if q.context else ''})" if scene.unsafe else ""
            pen.text((x, y + edge + 3), textwrap.fill(caption(scene, rng) + note, 28), fill=colour, font=font)
    return page


def _save(pixels: Pixels, path: Path) -> None:
    Image.fromarray(pixels).save(path, lossless=True, quality=100, method=6)
