"""Plots of an evaluation, a panel for each split: radii (figure 2 of the paper), ROC, R@k, traversal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_export.evaluation.encoded import GROUPS
from hysac_export.evaluation.metrics import MODES, radii_of, traversal_sweep
from hysac_export.evaluation.subjects import Evaluation
from hysac_export.evaluation.table import SPLIT_TITLES
from hysac_retrieval.errors import MissingExtraError
from hysac_retrieval.types import MODALITIES

Floats = NDArray[np.float64]
COLOURS = {"safe_text": "#1b7837", "safe_image": "#7fbf7b", "unsafe_text": "#af8dc3", "unsafe_image": "#762a83"}


def write_plots(evaluations: Sequence[Evaluation], folder: Path) -> list[Path]:
    """Write the plots as PNG files.

    Args:
        evaluations: The first model in it is plotted; of the others, R@k of the unsafe→safe search is shown beside it.
        folder: Where to; must exist.

    Returns:
        The files written.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train", "drawing the plots") from error
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
        figure = Figure(figsize=(6.4 * columns, 4.4 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, evaluation in zip(panels, main, strict=False):
            axes.set_title(f"{subject.name}: {SPLIT_TITLES.get(evaluation.split, evaluation.split)}")
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
    limits = np.unique(np.concatenate([safe, unsafe]))[::-1]
    false = 1 - np.searchsorted(np.sort(safe), limits, side="left") / len(safe)
    true = 1 - np.searchsorted(np.sort(unsafe), limits, side="left") / len(unsafe)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def _radii(axes: Any, evaluation: Evaluation) -> None:
    radii = radii_of(evaluation.encoded, _curvature(evaluation))
    low, high = (f(r) for f, r in ((min, [r.min() for r in radii.values()]), (max, [r.max() for r in radii.values()])))
    edges = np.linspace(low, high, 81)
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
    curvature = evaluation.subject.curvature
    return 1.0 if curvature is None else curvature  # only hyperbolic models come here
