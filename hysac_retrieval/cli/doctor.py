"""``hysac doctor``: is everything there, does it work, and what mends it if not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import click

from hysac_retrieval.cli.common import Command, console, print_json
from hysac_retrieval.cli.options import json_option
from hysac_retrieval.errors import HysacError, MissingExtraError

Status = Literal["ok", "missing", "broken"]

REQUIRED = (
    "numpy",
    "array-api-compat",
    "pillow",
    "tokenizers",
    "qdrant-client",
    "qdrant-edge-py",
    "pydantic",
    "click",
    "rich",
    "huggingface-hub",
)
TRAINING = ("torch", "torchvision", "open_clip_torch", "onnx", "onnxscript", "pyyaml", "matplotlib")


@dataclass(frozen=True, slots=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: What was looked at.
        status: ``ok``; ``missing``, an optional part that is not installed; ``broken``, which needs mending.
        found: What was found.
        mend: What to do about it; empty when there is nothing to do.
    """

    name: str
    status: Status
    found: str
    mend: str = ""


@click.command("doctor", cls=Command)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check the installation: packages, extras, bundled models, the embedded engine.

    Exits with 1 if something needs mending.
    """
    checks = list(examine())
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        from rich.table import Table
        from rich.text import Text

        colours = {"ok": "green", "missing": "yellow", "broken": "red"}
        table = Table(box=None, show_header=False, pad_edge=False)
        for check in checks:
            found = f"{check.found}\n→ {check.mend}" if check.mend else check.found
            table.add_row(Text(check.status, style=colours[check.status]), check.name, Text(found))
        console().print(table)
    ctx.exit(1 if any(check.status == "broken" for check in checks) else 0)


def examine() -> Iterator[Check]:
    """Run all checks."""
    yield _packages("packages", REQUIRED, "broken", "pip install --upgrade hysac-retrieval")
    yield _onnxruntime(_version("onnxruntime"), _version("onnxruntime-gpu"))
    yield _packages("training", TRAINING, "missing", "pip install 'hysac-retrieval[train]'")
    yield from _models()
    yield _attempt("embedded engine", _engine)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages(name: str, wanted: tuple[str, ...], lacking: Status, mend: str) -> Check:
    absent = [package for package in wanted if _version(package) is None]
    if absent:
        return Check(name, lacking, f"not installed: {', '.join(absent)}", mend)
    return Check(name, "ok", ", ".join(f"{package} {_version(package)}" for package in wanted))


def _onnxruntime(cpu: str | None, gpu: str | None) -> Check:
    if cpu and gpu:
        return Check(
            "ONNX Runtime",
            "broken",
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu} overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'hysac-retrieval[cpu]' or "
            "'hysac-retrieval[gpu]'",
        )
    if not (cpu or gpu):
        return Check("ONNX Runtime", "broken", "not installed", "pip install 'hysac-retrieval[cpu]' (or [gpu])")
    try:
        from onnxruntime import get_available_providers
    except ImportError as error:
        return Check(
            "ONNX Runtime",
            "broken",
            f"installed, but does not load: {error}",
            "pip install --force-reinstall " + ("onnxruntime" if cpu else "onnxruntime-gpu"),
        )
    return Check("ONNX Runtime", "ok", f"{cpu or gpu}, providers {', '.join(get_available_providers())}")


def _models() -> Iterator[Check]:
    from hysac_retrieval.encoder.bundle import bundled_models

    names = bundled_models()
    if not names:
        yield Check(
            "bundled model", "broken", "none", "pip install --force-reinstall hysac-retrieval, or name one by --model"
        )
    for name in names:
        yield _attempt(f"model {name}", lambda name=name: _model(name))  # type: ignore[misc]


def _model(name: str) -> str:
    from hysac_retrieval.encoder.encoder import Encoder

    encoder = Encoder.load(name)
    points = encoder.encode_text(["a dog in the park"])
    return f"checksums match, encodes to {points.shape[1]} dimensions, fingerprint {encoder.fingerprint}"


def _engine() -> str:
    import numpy as np

    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, SafetyProfile

    near, far = RadiusStats.of([0.9, 1.1]), RadiusStats.of([1.9, 2.1])
    part = ModalityProfile(safe=near, unsafe=far, slope=10.0, midpoint=1.5, boundary=1.0)
    profile = SafetyProfile(text=part, image=part, threshold=0.5)
    with (
        tempfile.TemporaryDirectory(prefix="hysac-doctor-") as folder,
        Index.create("doctor", dim=2, curvature=1.0, safety=profile, location=folder) as index,
    ):
        index.upsert([1, 2], np.array([[1.0, 0.0], [0.0, 1.0]]), modality="text")
        found = index.query(np.array([1.0, 0.1]), limit=1, safe=False)[0].id
    if found != 1:
        raise HysacError(f"the nearest point was {found!r}, expected 1; reinstall qdrant-edge-py")
    return f"qdrant-edge-py {_version('qdrant-edge-py')} stores and finds points"


def _attempt(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", check())
    except MissingExtraError as error:
        mend = f"pip install 'hysac-retrieval[{error.extra}]'"
        return Check(name, "broken", f"the package {error.package} is not installed", mend)
    except (HysacError, ImportError, OSError) as error:
        found, _, mend = str(error).rpartition("; ")
        return Check(name, "broken", found or str(error), mend if found else "")
