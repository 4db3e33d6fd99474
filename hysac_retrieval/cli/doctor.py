"""``hysac doctor``: check the installation and say how to repair it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

import click

from hysac_retrieval.cli.common import Command, print_json
from hysac_retrieval.cli.options import Place, json_option, place_options
from hysac_retrieval.cli.terminal import console
from hysac_retrieval.errors import HysacError, SettingsError

_SHOWN = 20
Status = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: The part that was checked.
        status: ``ok``; ``missing``, an optional part that is not installed; ``broken``, a part to be repaired.
        message: What was found.
        hint: What to do about it; empty if nothing is to be done.
    """

    name: str
    status: Status
    message: str
    hint: str = ""


@click.command("doctor", cls=Command)
@place_options(click.option("--collection", help="Collection to compare with its indexes; with --repair, to rebuild."))
@click.option("--repair", is_flag=True, help="Rebuild a collection of the embedded engine that cannot be read.")
@click.option("--model", help="Model that the collection was indexed with, if its metadata is damaged, too.")
@json_option
@click.pass_context
def command(ctx: click.Context, place: Place, repair: bool, model: str | None, as_json: bool) -> None:
    """Check the installation: packages, extras, bundled models, the embedded engine.

    With --url, also what that server can do. Exits with 1 if something needs repair. With --repair, a collection of the
    embedded engine that cannot be opened or read is rebuilt from what can be, and what is lost is listed; index its
    sources again to get it back. The collection as it was stays beside it, under a hidden name.

    With --collection alone, the payload indexes of a collection are compared with its payloads, and what differs is
    written anew: a server goes on finding points as safe after their payload key `hysac` was deleted whole.

    \b
    hysac doctor
    hysac doctor --url http://localhost:6333
    hysac doctor --collection photos --url http://localhost:6333
    hysac doctor --repair --collection photos --location ./data
    hysac doctor --repair --collection photos --location ./data --model hysac-mini
    """
    if repair:
        _repair(place, model, as_json)
        return
    if place.collection:
        _reconcile(place, as_json)
        return
    checks = [*examine(), *(() if place.url is None else server_checks(place))]
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        from rich.table import Table
        from rich.text import Text

        colours = {"ok": "green", "missing": "yellow", "broken": "red"}
        table = Table(box=None, show_header=False, pad_edge=False)
        for check in checks:
            text = f"{check.message}\n→ {check.hint}" if check.hint else check.message
            table.add_row(Text(check.status, style=colours[check.status]), check.name, Text(text))
        console().print(table)
    ctx.exit(1 if any(check.status == "broken" for check in checks) else 0)


def _repair(place: Place, model: str | None, as_json: bool) -> None:
    from hysac_retrieval.collection.repair import repair
    from hysac_retrieval.encoder.encoder import Encoder

    if place.location is None or not place.collection:
        what = "--repair is for a collection of the embedded engine"
        raise SettingsError(what, hint="Name it with --collection, and its folder with --location")
    done = repair(place.location, place.collection, None if model is None else Encoder.load(model))
    if as_json:
        print_json(asdict(done) | {"set_aside": done.set_aside and str(done.set_aside)})
        return
    if done.set_aside is None and not done.described:
        click.echo(f"Nothing is wrong with {place.collection!r}: all of its {done.points:,} points can be read.")
        return
    click.echo(f"Repaired {place.collection!r}: {done.points:,} points can be read.")
    if done.described:
        click.echo("Its metadata was written again from the model.")
    if done.writes:
        click.echo(f"The last {done.writes:,} writes of its log could not be read; what they wrote may be lost.")
    if done.lost:
        some = ", ".join(map(str, done.lost[:_SHOWN])) + (", …" if len(done.lost) > _SHOWN else "")
        click.echo(f"Lost with their payload: {len(done.lost):,} points: {some}")
    if done.set_aside is not None:
        click.echo(f"As it was, it is in {done.set_aside}; remove that when all is well. Index its sources again.")


def _reconcile(place: Place, as_json: bool) -> None:
    from hysac_retrieval.collection.agreement import reconcile
    from hysac_retrieval.stores import opening

    with opening(place.connection(), keep=False) as (store, _):
        found = reconcile(store, place.collection)
    if as_json:
        print_json({"collection": place.collection, **asdict(found)})
        return
    if not (found.stale or found.missing):
        click.echo(f"Index and payload of {place.collection!r} agree: {found.points:,} points compared.")
        return
    click.echo(f"Index and payload of {place.collection!r} differed at some of {found.points:,} points; mended:")
    for what, ids in (("found as safe, and not safe", found.stale), ("safe, and not found", found.missing)):
        if ids:
            some = ", ".join(map(str, ids[:_SHOWN])) + (", …" if len(ids) > _SHOWN else "")
            click.echo(f"  {what}: {len(ids):,} points: {some}")


def examine() -> Iterator[Check]:
    """Run all checks."""
    yield _packages("packages", "", "broken", "pip install --upgrade hysac-retrieval")
    yield _onnxruntime(_version("onnxruntime"), _version("onnxruntime-gpu"))
    yield _packages("training", "train", "missing", "pip install 'hysac-retrieval[train]'")
    yield from _models()
    yield _attempt("embedded engine", _engine)


def server_checks(place: Place) -> Iterator[Check]:
    """Say which server answers, and what of `versions.FEATURES` it can do."""
    from hysac_retrieval.stores import opening
    from hysac_retrieval.stores.versions import FEATURES, METADATA

    try:
        with opening(place.connection(), keep=False) as (store, _):
            found = store.version()
    except HysacError as error:
        yield Check("server", "broken", error.message, error.hint)
        return
    yield Check("server", "ok", f"Qdrant {found} at {place.url}")
    for feature in FEATURES:
        needs = f"needs Qdrant {'.'.join(map(str, feature.since))}"
        if feature.known(found):
            yield Check(feature.name, "ok", needs)
        else:
            yield Check(feature.name, "broken" if feature is METADATA else "missing", needs, feature.otherwise)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages(name: str, extra: str, lacking: Status, hint: str) -> Check:
    """Check the packages that this one requires, or those of an extra."""
    try:
        requirements = requires("hysac-retrieval") or ()
    except PackageNotFoundError:
        return Check(name, "broken", "hysac-retrieval itself is not installed", hint)
    wanted = []
    for requirement in requirements:
        package, _, condition = requirement.partition(";")
        if (f"extra == '{extra}'" if extra else "") == condition.strip().replace('"', "'"):
            wanted.append(re.split(r"[^\w.-]", package)[0])
    if absent := [package for package in wanted if _version(package) is None]:
        return Check(name, lacking, f"not installed: {', '.join(absent)}", hint)
    return Check(name, "ok", ", ".join(f"{package} {_version(package)}" for package in wanted))


def _onnxruntime(cpu: str | None, gpu: str | None) -> Check:
    name, install = "ONNX Runtime", "pip install 'hysac-retrieval[cpu]' or 'hysac-retrieval[gpu]'"
    if cpu and gpu:
        found = f"onnxruntime {cpu} and onnxruntime-gpu {gpu} overwrite each other's files"
        return Check(name, "broken", found, f"pip uninstall -y onnxruntime onnxruntime-gpu, then {install}")
    if not (cpu or gpu):
        return Check(name, "broken", "not installed", install)
    try:
        from onnxruntime import get_available_providers
    except ImportError as error:
        again = "pip install --force-reinstall " + ("onnxruntime" if cpu else "onnxruntime-gpu")
        return Check(name, "broken", f"installed, but does not load: {error}", again)
    return Check(name, "ok", f"{cpu or gpu}, providers {', '.join(get_available_providers())}")


def _models() -> Iterator[Check]:
    from hysac_retrieval.encoder.bundle import bundled_models

    if not (names := bundled_models()):
        hint = "pip install --force-reinstall hysac-retrieval, or name a model by --model"
        yield Check("bundled model", "broken", "none", hint)
    for name in names:
        yield _attempt(f"model {name}", partial(_model, name))


def _model(name: str) -> str:
    from hysac_retrieval.encoder.encoder import Encoder

    encoder = Encoder.load(name)
    points = encoder.encode_text(["a dog in the park"])
    return f"checksums match, encodes to {points.shape[1]} dimensions, fingerprint {encoder.fingerprint}"


def _engine() -> str:
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, SafetyProfile

    near, far = RadiusStats.of([0.9, 1.1]), RadiusStats.of([1.9, 2.1])
    part = ModalityProfile(safe=near, unsafe=far, slope=10.0, midpoint=1.5, boundary=1.0)
    profile = SafetyProfile(text=part, image=part, threshold=0.5)
    with (
        tempfile.TemporaryDirectory(prefix="hysac-doctor-") as folder,
        Index.create("doctor", dim=2, curvature=1.0, safety=profile, location=folder) as index,
    ):
        index.upsert([1, 2], [[1.0, 0.0], [0.0, 1.0]], modality="text")
        found = index.query([1.0, 0.1], limit=1, safe=False)[0].id
    if found != 1:
        raise HysacError(f"the nearest point was {found!r}, expected 1", hint="Reinstall qdrant-edge-py")
    return f"qdrant-edge-py {_version('qdrant-edge-py')} stores and finds points"


def _attempt(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", check())
    except HysacError as error:
        return Check(name, "broken", error.message, error.hint)
    except (ImportError, OSError) as error:
        return Check(name, "broken", str(error))
