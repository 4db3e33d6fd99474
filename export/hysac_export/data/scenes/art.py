"""Draws the sprites that scenes are composed of.

Run by hand when the catalogue or the artwork changes:

    python -m hysac_export.data.scenes.art                   # fetches the seven pinned packages with `npm pack`
    python -m hysac_export.data.scenes.art --packages DIR    # DIR holds them unpacked, as DIR/<name>/icons.json

It writes one lossless WebP atlas per style and an index into `sprites/`. These files are part of the package, so that
nothing else here ever needs npm, resvg or a network.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from PIL import Image

from hysac_export.data.scenes.catalogue import KNOWN_STYLES, Entity, catalogue
from hysac_retrieval.errors import MissingExtraError, TrainingError

CELL = 48
"""Edge of a sprite in the atlas, in pixels."""
COLUMNS = 20
"""Sprites per row of the atlas."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Package:
    """A pinned artwork package of the npm registry."""

    version: str
    licence: str
    author: str


PACKAGES = {
    "fluent-emoji": Package("1.2.7", "MIT", "Microsoft Corporation"),
    "fluent-emoji-flat": Package("1.2.6", "MIT", "Microsoft Corporation"),
    "noto": Package("1.2.9", "Apache-2.0", "Google Inc"),
    "noto-v1": Package("1.2.5", "Apache-2.0", "Google Inc"),
    "twemoji": Package("1.2.5", "CC-BY-4.0", "Twitter"),
    "emojione": Package("1.2.3", "CC-BY-4.0", "Emoji One"),
    "fxemoji": Package("1.2.2", "Apache-2.0", "Mozilla"),
}
"""Artwork by style; the npm package is `@iconify-json/<style>`."""


@click.command()
@click.option("--packages", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Packages, unpacked.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=_HERE / "sprites", show_default="sprites/"
)
def main(packages: Path | None, out: Path) -> None:
    """Draw all entities in all styles and write the atlases."""
    with tempfile.TemporaryDirectory() as temporary:
        if packages is None:
            packages = Path(temporary)
            for style in PACKAGES:
                click.echo(f"fetching @iconify-json/{style}@{PACKAGES[style].version}", err=True)
                _fetch(style, packages)
        write_atlases(packages, out)


def write_atlases(packages: Path, out: Path) -> None:
    """Draw every entity in every style that has it, into `out/<style>.webp` and `out/index.json`."""
    entities = catalogue().entities.values()
    drawings: dict[str, dict[str, str]] = {}
    for style in PACKAGES:
        icons = json.loads((packages / style / "icons.json").read_text("utf-8"))
        drawings[style] = {entity.id: art for entity in entities if (art := _art(entity, style, icons))}
    if few := [e.id for e in entities if sum(e.id in drawings[style] for style in KNOWN_STYLES) < 2]:
        message = f"{few} are drawn in fewer than two of the styles {', '.join(KNOWN_STYLES)}"
        raise TrainingError(message, hint="Give them other icons or drop them")
    out.mkdir(parents=True, exist_ok=True)
    styles = {}
    for style, package in PACKAGES.items():
        _atlas(list(drawings[style].values())).save(out / f"{style}.webp", lossless=True, quality=100, method=6)
        facts = {"package": f"@iconify-json/{style}"} | asdict(package)
        styles[style] = facts | {"entities": list(drawings[style])}
    index = {"cell": CELL, "columns": COLUMNS, "styles": styles}
    (out / "index.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")


def _atlas(svgs: Sequence[str]) -> Image.Image:
    atlas = Image.new("RGBA", (COLUMNS * CELL, -(-len(svgs) // COLUMNS) * CELL))
    for place, svg in enumerate(svgs):
        atlas.paste(_render(svg), (place % COLUMNS * CELL, place // COLUMNS * CELL))
    return atlas


def _fetch(style: str, folder: Path) -> None:
    spec = f"@iconify-json/{style}@{PACKAGES[style].version}"
    try:
        packed = subprocess.run(
            ["npm", "pack", "--silent", spec], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.split()[-1]
    except FileNotFoundError as error:
        raise TrainingError("npm was not found", hint="Install Node.js, or give unpacked --packages") from error
    except subprocess.CalledProcessError as error:
        raise TrainingError(f"npm could not fetch {spec}: {error.stderr.strip()}") from error
    with tarfile.open(folder / packed) as archive:
        icons = archive.extractfile("package/icons.json")
        if icons is None:
            raise TrainingError(f"{spec} holds no icons.json; is it an Iconify JSON package?")
        (folder / style).mkdir()
        (folder / style / "icons.json").write_bytes(icons.read())


def _art(entity: Entity, style: str, icons: Mapping[str, Any]) -> str:
    """The SVG of an entity in a style, or "" when the style does not have it."""
    own = _HERE / "drawings" / style / f"{entity.id}.svg"
    if own.exists():
        return own.read_text("utf-8")
    name, explicit = entity.icon_in(style)
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    if name in icons["icons"]:
        icon = icons["icons"][name]
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )
    if name and explicit:
        raise TrainingError(f"{style} has no icon {name!r}, which the catalogue names for {entity.id!r}.")
    return ""


def _render(svg: str) -> Image.Image:
    try:
        import resvg_py
    except ImportError as error:
        raise MissingExtraError("resvg-py", "art", "Drawing the sprites") from error
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=CELL, height=CELL)))).convert("RGBA")


if __name__ == "__main__":
    main()
