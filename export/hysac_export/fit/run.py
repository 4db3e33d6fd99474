"""The whole of `hysac fit`: heads from labelled examples, their figures, the bundle with its report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hysac_export.data.split import Stages
from hysac_export.fit.bundle import FitOptions, write_bundle
from hysac_export.fit.encoders.base import VectorEncoder
from hysac_export.fit.measure import Measured, measure, verdict
from hysac_export.fit.radial import fit_heads
from hysac_export.fit.report import write_report
from hysac_export.fit.scores import Labelled
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.types import Modality


@dataclass(frozen=True)
class Fitted:
    """A bundle that was fitted.

    Attributes:
        bundle: The bundle.
        measured: Figures of each modality.
        seconds: Time that fitting and measuring took.
    """

    bundle: Bundle
    measured: Mapping[Modality, Measured]
    seconds: float

    @property
    def verdicts(self) -> tuple[str, ...]:
        """The figures in words."""
        return tuple(verdict(measured, modality) for modality, measured in self.measured.items())

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "bundle": str(self.bundle.path),
            "name": self.bundle.manifest.name,
            "fingerprint": self.bundle.fingerprint,
            "seconds": self.seconds,
            "verdicts": self.verdicts,
            "measured": {modality: measured.to_dict() for modality, measured in self.measured.items()},
        }


def fit_bundle(
    examples: Mapping[Modality, Labelled],
    out: Path,
    options: FitOptions,
    stages: Stages,
    encoder: VectorEncoder | None = None,
) -> Fitted:
    """Fit heads to examples and write a bundle, with ``report.html`` beside its manifest; see `fit_heads`.

    Raises:
        SettingsError: No threshold is as wanted, or there is something at `out` already.
        TrainingError: The examples are too few, or say nothing.
        EncoderError: The encoder has no graphs, and they are to be in the bundle.
    """
    begun = time.perf_counter()
    step = stages("Fitting and measuring", len(examples))
    fits = fit_heads(examples, options.wanted, seed=options.seed)
    measured = dict[Modality, Measured]()
    for modality, fit in fits.items():
        measured[modality] = measure(fit)
        if step is not None:
            step(1)
    seconds = time.perf_counter() - begun
    training = {"labels": options.labels, "seed": options.seed, "seconds": round(seconds, 2)}
    metrics = {"cross-validation": {modality: _summary(part) for modality, part in measured.items()}}
    bundle = write_bundle(fits, out, options, encoder, training=training, metrics=metrics)
    write_report(measured, bundle, options.labels)
    return Fitted(bundle, measured, seconds)


def _summary(measured: Measured) -> dict[str, Any]:
    if measured.pseudo:
        return {"safe": measured.safe, "unsafe": measured.unsafe, "pseudo": True}
    figures = {"auc": measured.auc.value, "missed": measured.missed.value, "lost": measured.lost.value}
    searches = {f"{way}.{name}": found.value for way, part in measured.searches.items() for name, found in part.items()}
    return {"safe": measured.safe, "unsafe": measured.unsafe, **figures, "kept": measured.kept, **searches}
