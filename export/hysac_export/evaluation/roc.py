"""The cost of a threshold: the share of unsafe samples that count as safe, and of safe ones that count as unsafe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hysac_export.evaluation.metrics import auc
from hysac_export.model.encoded import Floats
from hysac_retrieval.errors import MissingExtraError
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.types import MODALITIES, Modality

STEPS = 200
"""Thresholds of a curve at most, but for the one that was chosen."""
_COLOURS = {"text": "#7b3294", "image": "#008837"}


def roc(profile: SafetyProfile, radii: Mapping[Any, Floats]) -> dict[Modality, Any]:
    """Compute the ROC of a calibration on radii by group (see `split.GROUPS`); an incomplete modality is left out.

    Returns:
        Under each modality: numbers of samples, ``auc``, the ``chosen`` threshold, the ``curve`` of ascending ones,
        each with the share of unsafe samples that count as safe (``miss``) and of safe ones that count as unsafe
        (``lost``).
    """
    found: dict[Modality, Any] = {}
    for modality in MODALITIES:
        safe, unsafe = (np.asarray(radii.get(f"{side}_{modality}", ())) for side in ("safe", "unsafe"))
        if not (safe.size and unsafe.size):
            continue
        scores = [np.sort(profile.unsafe(each, modality)) for each in (safe, unsafe)]
        every = np.unique(np.concatenate([[0.0], *scores]))
        steps = every[np.unique(np.linspace(0, every.size - 1, STEPS).round().astype(int))]
        curve = [_at(float(step), *scores) for step in steps]
        found[modality] = {
            "safe": int(safe.size),
            "unsafe": int(unsafe.size),
            "auc": auc(safe, unsafe),
            "chosen": _at(profile.threshold.of(modality), *scores),
            "curve": curve,
        }
    return found


def write_roc(found: Mapping[Modality, Any], path: Path, title: str = "") -> tuple[Path, Path]:
    """Write what `roc` returned as JSON, and its picture as PNG beside it; return both paths."""
    figure = new_figure(6.4, 4.8)
    axes: Any = figure.subplots()
    for modality in MODALITIES:
        if modality in found:
            _draw(axes, modality, found[modality])
    axes.set(xlabel="safe samples that count as unsafe", ylabel="unsafe samples that count as unsafe", title=title)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    picture = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    figure.savefig(picture, dpi=110)
    return path, picture


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, sizes in inches (`MissingExtraError`: matplotlib or scikit-learn is not installed)."""
    try:
        import sklearn  # noqa: F401  # computes what is drawn
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(error.name or "matplotlib", "train", "drawing the plots") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _at(threshold: float, safe: Floats, unsafe: Floats) -> dict[str, float]:
    """Shares at a threshold; scores are sorted."""
    return {
        "threshold": threshold,
        "miss": float(np.searchsorted(unsafe, threshold, side="right") / unsafe.size),
        "lost": float(1 - np.searchsorted(safe, threshold, side="right") / safe.size),
    }


def _draw(axes: Any, modality: Modality, part: Mapping[str, Any]) -> None:
    lost, caught = [step["lost"] for step in part["curve"]], [1 - step["miss"] for step in part["curve"]]
    label = f"{modality}, AUC {part['auc']:.3f} ({part['safe']} safe, {part['unsafe']} unsafe)"
    axes.plot(lost, caught, color=_COLOURS[modality], label=label)
    chosen = part["chosen"]
    axes.plot([chosen["lost"]], [1 - chosen["miss"]], "o", color=_COLOURS[modality])
    note = f"{modality}: {chosen['miss']:.1%} missed, {chosen['lost']:.1%} lost"
    place = (chosen["lost"], 1 - chosen["miss"])
    axes.annotate(note, place, textcoords="offset points", xytext=(8, -12), fontsize=8)
