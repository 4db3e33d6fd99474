"""``hysac info``: describe collections and models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import Command, print_json
from hysac_retrieval.cli.options import Place, json_option, place_options
from hysac_retrieval.cli.terminal import console
from hysac_retrieval.errors import SettingsError

if TYPE_CHECKING:
    from hysac_retrieval.safety.profile import SafetyProfile


@click.command("info", cls=Command)
@click.argument("collections", metavar="[COLLECTION]...", nargs=-1)
@place_options(None)
@click.option("--model", help="Describe this model: bundled name, folder or hub repository.")
@click.option("--all", "everything", is_flag=True, help="Metrics, training and verification of a model, too.")
@json_option
def command(collections: tuple[str, ...], place: Place, model: str | None, everything: bool, as_json: bool) -> None:
    """Describe collections and models.

    Without names: all collections of a location or server, or the models that come with the package.

    \b
    hysac info
    hysac info photos --location ./data
    hysac info --url http://localhost:6333 --json
    hysac info --model hysac-mini
    """
    if collections or place.location or place.url:
        if model is not None:
            raise SettingsError("--model describes a model", hint="Ask about collections separately")
        described = _collections(collections, place)
    else:
        from hysac_retrieval.encoder.bundle import bundled_models

        described = [_model(name) for name in (bundled_models() if model is None else [model])]
    if as_json:
        print_json(described)
        return
    for number, entry in enumerate(described):
        if number:
            click.echo()
        _print(entry, ("metrics", "training", "verification") if everything else ())
    if not described:
        click.echo("There are no collections yet; `hysac index` makes one.")


def _collections(names: tuple[str, ...], place: Place) -> list[dict[str, Any]]:
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.errors import NotACollectionError, StorageLockedError
    from hysac_retrieval.stores import opening

    described = []
    with opening(place.connection(), keep=False) as (store, _):
        for name in names or store.names():
            try:
                index = Index.open(name, store=store)
            except (NotACollectionError, StorageLockedError) as error:
                if names:
                    raise
                # A collection of an application, or one that is in use.
                described.append({"name": name, "error": error.message})
                continue
            described.append(index.info().to_dict() | {"safety": index.metadata.safety.model_dump(mode="json")})
    return described


def _model(name: str) -> dict[str, Any]:
    from hysac_retrieval.encoder.bundle import Bundle

    bundle = Bundle.load(name)
    manifest = bundle.manifest
    image, text, vectors = manifest.image, manifest.text, manifest.vectors
    fields = {"name", "description", "licence", "domain", "dim", "curvature", "safety"}
    return manifest.model_dump(mode="json", include=fields | {"metrics", "training", "verification"}) | {
        "path": str(bundle.path),
        "fingerprint": bundle.fingerprint,
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "image size": image and image.size,
        "context length": text and text.context_length,
        "vector size": vectors and vectors.size,
        "vectors of": (vectors and vectors.encoder) or None,
    }


_LABELS = {"bytes_per_point": "bytes per point", "indexed": "in the graph", "beyond": "beyond the lift"}
_EXCEPTIONS = frozenset({"beyond", "outdated", "estimated", "domain"})
"""Counts and words that are only shown if they are not 0, or empty."""


def _print(entry: dict[str, Any], details: tuple[str, ...]) -> None:
    from rich.table import Column, Table

    from hysac_retrieval.safety.profile import SafetyProfile

    out = console()
    out.print(entry["name"], style="bold")
    table = Table(Column(style="dim", no_wrap=True), "", box=None, show_header=False, pad_edge=False)
    for key, value in entry.items():
        shown = value is not None and not isinstance(value, dict) and (value or key not in _EXCEPTIONS)
        if key not in ("name", "safety") and shown:
            table.add_row(_LABELS.get(key, key), f"{value:.6g}" if isinstance(value, float) else str(value))
    for key in ("measured", *details):
        for path, value in _flat(entry.get(key) or {}, key):
            table.add_row(path, f"{value:.4g}" if isinstance(value, float) else str(value))
    out.print(table)
    if "safety" in entry:
        _print_profile(SafetyProfile.model_validate(entry["safety"]))


def _print_profile(profile: SafetyProfile) -> None:
    from rich.table import Column, Table

    from hysac_retrieval.types import MODALITIES

    names = ("safe radius", "unsafe radius", "P(unsafe) = ½ at", "queries kept up to")
    columns = (Column(""), *(Column(name, justify="right") for name in names))
    table = Table(*columns, title=f"safety profile, threshold {profile.threshold}", title_justify="left", box=None)
    for modality in MODALITIES:
        part = profile.of(modality)
        table.add_row(
            modality,
            f"{part.safe.mean:.3f} ± {part.safe.std:.3f}",
            f"{part.unsafe.mean:.3f} ± {part.unsafe.std:.3f}",
            f"{part.midpoint:.3f}",
            f"{part.boundary:.3f}",
        )
    console().print(table)


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Turn nested settings into dotted paths; long lists are left to ``--json``."""
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        path = f"{prefix}.{key}"
        if isinstance(value, dict):
            rows += _flat(value, path)
        elif not isinstance(value, list) or len(value) <= 8:
            rows.append((path, value))
    return rows
