"""A fitted head as a bundle: alone for vectors that are stored, and behind the graphs of its encoder if it has any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hysac_export.bundle.graphs import save_graph
from hysac_export.bundle.place import building
from hysac_export.evaluation.calibrate import Wanted
from hysac_export.fit.encoders.base import EncoderGraphs, VectorEncoder
from hysac_export.fit.graph import behind, head_graph
from hysac_export.fit.radial import CURVATURE, Fit, profile_of
from hysac_retrieval.encoder.bundle import Bundle, Manifest, Probe, VectorSpec, entry_of, write_manifest
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.inputs import ENOUGH, Inputs, PictureStatistics, VectorStatistics
from hysac_retrieval.errors import BundleFormatError
from hysac_retrieval.lift import PaddedLift
from hysac_retrieval.types import Modality

TOLERANCE = 1e-4
"""Largest absolute difference between a component of a point that a graph gives and the one that was fitted."""
PROBES = (
    "a dog runs across a green field",
    "the minutes of yesterday's meeting",
    "a man threatens his neighbour with a knife",
    "fresh bread on a wooden table",
)
"""Texts whose vectors are kept, so that another encoder is noticed."""
_CHECKED = 32


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit.

    Attributes:
        name: Name of the model.
        labels: What the labels were, in words.
        wanted: Shares that the thresholds are chosen by.
        with_encoder: Whether the bundle holds the encoder too.
        domain: What the model knows, in words.
        description: For people.
        licence: Licence of the encoder and the labels.
        seed: Seed of the folds.
        overwrite: Whether to replace a bundle.
    """

    name: str
    labels: str
    wanted: Wanted
    with_encoder: bool = True
    domain: str = ""
    description: str = ""
    licence: str = ""
    seed: int = 0
    overwrite: bool = False


def write_bundle(
    fits: Mapping[Modality, Fit],
    out: Path,
    options: FitOptions,
    encoder: VectorEncoder | None = None,
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle of fitted heads and check that its graphs compute what was fitted.

    Args:
        fits: Heads by modality.
        out: Folder of the bundle; moved there when all is well.
        options: Its names, and whether it holds the encoder.
        encoder: The encoder of the vectors, None if it is not to be had here.
        training: How it was fitted, JSON-serialisable.
        metrics: What was measured, JSON-serialisable.

    Raises:
        SettingsError: There is something at `out` already.
        EncoderError: The encoder has no graphs.
        BundleFormatError: A graph does not compute what was fitted; nothing is written.
    """
    graphs = encoder.graphs() if encoder is not None and options.with_encoder else EncoderGraphs()
    size = next(iter(fits.values())).examples.vectors.shape[1]
    points = np.concatenate([fit.head.points(fit.examples.vectors) for fit in fits.values()])
    with building(out, options.overwrite) as folder:
        heads = {modality: f"head-{modality}.onnx" for modality in fits}
        for modality, file in heads.items():
            save_graph(head_graph(fits[modality].head), folder / file)
        text = graphs.text if "text" in fits else None
        image = graphs.image if "image" in fits else None
        if text is not None:
            save_graph(behind(text.proto, fits["text"].head), folder / text.spec.file)
            text.tokenizer.save(str(folder / text.spec.tokenizer))
        if image is not None:
            save_graph(behind(image.proto, fits["image"].head), folder / image.spec.file)
        manifest = Manifest(
            name=options.name,
            description=options.description,
            licence=options.licence,
            dim=size,
            curvature=CURVATURE,
            image=image.spec if image else None,
            text=text.spec if text else None,
            vectors=VectorSpec(size=size, encoder=encoder.name if encoder else "", probes=_probes(encoder), **heads),
            files={path.name: entry_of(path) for path in sorted(folder.iterdir())},
            safety=profile_of(fits, f"{options.labels}; {options.wanted}, by cross-validation"),
            lift=PaddedLift.fit(points, CURVATURE).to_dict(),
            domain=options.domain,
            inputs=_inputs(fits),
            training={"versions": {"hysac-retrieval": version("hysac-retrieval")}, **(training or {})},
            metrics=dict(metrics or {}),
        )
        bundle = write_manifest(folder, manifest)
        checked = _verify(bundle, fits, encoder)
        write_manifest(folder, manifest.model_copy(update={"verification": checked}))
    return Bundle.load(out)


def _inputs(fits: Mapping[Modality, Fit]) -> Inputs:
    vectors = {m: VectorStatistics.of(fit.examples.vectors, fit.examples.groups) for m, fit in fits.items()}
    counts = fits["image"].examples.counts if "image" in fits else None
    return Inputs(
        pictures=PictureStatistics.of(counts) if counts is not None and len(counts) >= ENOUGH else None,
        text=vectors.get("text"),
        image=vectors.get("image"),
    )


def _probes(encoder: VectorEncoder | None) -> tuple[Probe, ...]:
    if encoder is None or "text" not in encoder.modalities:
        return ()
    vectors = encoder.text(PROBES)
    return tuple(Probe(text=text, vector=tuple(row.tolist())) for text, row in zip(PROBES, vectors, strict=True))


def _verify(bundle: Bundle, fits: Mapping[Modality, Fit], encoder: VectorEncoder | None) -> dict[str, Any]:
    """Compare the graphs of a bundle with what was fitted, on examples; return the largest differences."""
    runtime, found = Encoder(bundle, device="cpu"), dict[str, Any]()
    for modality, fit in fits.items():
        rows = fit.examples.vectors[:_CHECKED]
        found[f"head_{modality}"] = _difference(
            runtime.encode_vectors(rows, modality), fit.head.points(rows), f"head of {modality}s"
        )
    if encoder is not None and bundle.manifest.text is not None:
        expected = fits["text"].head.points(encoder.text(PROBES))
        found["text"] = _difference(runtime.encode_text(PROBES), expected, "text graph")
    if encoder is not None and bundle.manifest.image is not None:
        expected = fits["image"].head.points(encoder.image(_pictures()))
        found["image"] = _difference(runtime.encode_image(_pictures()), expected, "image graph")
    return {"tolerance": TOLERANCE, **found}


def _pictures() -> list[Image.Image]:
    """Blocks of colour: noise alone looks all the same to a model."""
    blocks = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    return [Image.fromarray(block.repeat(40, axis=0).repeat(40, axis=1)) for block in blocks]


def _difference(found: Any, expected: Any, what: str) -> float:
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        message = f"the {what} differs from what was fitted by {difference:.3g}, at most {TOLERANCE:.0e} is expected"
        raise BundleFormatError(message, hint="Check the versions of onnx and onnxruntime")
    return difference
