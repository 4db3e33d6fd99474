"""Plots of an evaluation, a panel for each split: radii (figure 2 of the paper), ROC, R@k, traversal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hysac_export.data.split import GROUPS
from hysac_export.evaluation.metrics import MODES, traversal_sweep
from hysac_export.evaluation.roc import new_figure
from hysac_export.evaluation.subjects import Evaluation
from hysac_export.evaluation.table import split_title
from hysac_export.model.encoded import Floats, radii_of
from hysac_retrieval.types import MODALITIES

COLOURS = {"safe_text": "#1b7837", "safe_image": "#7fbf7b", "unsafe_text": "#af8dc3", "unsafe_image": "#762a83"}


def write_plots(evaluations: Sequence[Evaluation], folder: Path) -> list[Path]:
    """Write plots of the first model as PNG files; of the others, R@k of the unsafe→safe search stands beside it."""
    subject = evaluations[0].subject
    main = [e for e in evaluations if e.subject is subject]
    kinds: dict[str, Callable[[Any, Evaluation], None]] = {
        "recall": lambda axes, e: _recall(axes, [other for other in evaluations if other.split == e.split])
    }
    if subject.curvature is not None:
        kinds = {"radii": _radii, "roc": _roc, **kinds, "traversal": _traversal}
    columns = min(2, len(main))
    rows = -(-len(main) // columns)
    written = []
    for name, draw in kinds.items():
        figure = new_figure(6.4 * columns, 4.4 * rows)
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, evaluation in zip(panels, main, strict=False):
            axes.set_title(f"{subject.name}: {split_title(evaluation)}")
            draw(axes, evaluation)
            axes.legend(fontsize=8, frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[len(main) :]:
            axes.set_visible(False)
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1], dpi=110)
    return written


def roc_curve(safe: Floats, unsafe: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates of "unsafe if the radius is at least r", for every r from the largest down."""
    from sklearn.metrics import roc_curve as rates

    false, true, _ = rates(np.repeat([0, 1], [len(safe), len(unsafe)]), np.concatenate([safe, unsafe]))
    return false, true


def _radii(axes: Any, evaluation: Evaluation) -> None:
    radii = radii_of(evaluation.encoded, _curvature(evaluation))
    every = np.concatenate(list(radii.values()))
    edges = np.linspace(every.min(), every.max(), 81)
    for group in GROUPS:
        axes.hist(radii[group], edges, color=COLOURS[group], alpha=0.7, label=group.replace("_", " "))
    if profile := evaluation.subject.profile:
        for modality, style in zip(MODALITIES, ("--", ":"), strict=True):
            axes.axvline(profile.of(modality).boundary, color="black", ls=style, lw=1, label=f"{modality} boundary")
    axes.set_xlabel("distance from the origin")
    axes.set_ylabel("points")


def _roc(axes: Any, evaluation: Evaluation) -> None:
    radii = radii_of(evaluation.encoded, _curvature(evaluation))
    for modality in MODALITIES:
        curve = roc_curve(radii[f"safe_{modality}"], radii[f"unsafe_{modality}"])
        area = evaluation.figures[f"auc.{modality}"].value
        axes.plot(*curve, color=COLOURS[f"unsafe_{modality}"], label=f"{modality}, AUC {area:.3f}")
    axes.plot([0, 1], [0, 1], color="grey", lw=0.7, ls="--")
    axes.set_xlabel("share of safe points beyond the radius")
    axes.set_ylabel("share of unsafe points beyond it")


def _recall(axes: Any, evaluations: Sequence[Evaluation]) -> None:
    ks = np.arange(1, min(50, len(evaluations[0].encoded)) + 1)
    for index, evaluation in enumerate(evaluations):
        for mode in MODES if index == 0 else ("plain",):
            if found := evaluation.found.get(f"twin_t2i.{mode}"):
                curve = [found.hits(int(k)).mean() for k in ks]
                axes.plot(ks, curve, ls="-" if index == 0 else ":", label=f"{evaluation.subject.name}, {mode}")
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.set_xlabel("k")
    axes.set_ylabel("R@k, unsafe text → safe twin image")


def _traversal(axes: Any, evaluation: Evaluation) -> None:
    curvature = _curvature(evaluation)
    radii = radii_of(evaluation.encoded, curvature)
    for modality, style in zip(MODALITIES, ("-", "--"), strict=True):
        boundaries = np.linspace(0.8 * radii["safe_text"].min(), radii[f"unsafe_{modality}"].max(), 25)
        recall, harmful = traversal_sweep(evaluation.encoded, curvature, modality, boundaries)
        axes.plot(boundaries, recall, color=COLOURS["safe_text"], ls=style, label=f"R@1, {modality} queries")
        axes.plot(boundaries, harmful, color=COLOURS["unsafe_image"], ls=style, label=f"harmful@1, {modality} queries")
        if profile := evaluation.subject.profile:
            axes.axvline(profile.of(modality).boundary, color="grey", ls=style, lw=1, label=f"{modality} boundary")
    axes.set_ylim(0, 1)
    axes.set_xlabel("radius that unsafe queries are moved to")


def _curvature(evaluation: Evaluation) -> float:
    return evaluation.subject.curvature or 1.0  # only hyperbolic models come here
