"""The tables of the paper (arXiv 2503.12127, section 5): retrieval, redirection, classification, zero-shot.

What does not apply to a model, such as the radius of a Euclidean one, is a dash.
"""

from __future__ import annotations

from collections.abc import Sequence

from hysac_export.evaluation.subjects import Evaluation
from hysac_export.evaluation.table import Table, number, percent, sample, title
from hysac_export.published.protocol import SEARCHES
from hysac_retrieval.types import MODALITIES

_DIRECTIONS = {"t2i": "U2VandG", "i2t": "G2SandU"}
_HOW = {
    "none": "none",
    "percentile": "published, 95th percentile",
    "mean": "published, mean",
    "geodesic": "ours",
}


def paper_table(evaluations: Sequence[Evaluation]) -> Table:
    """Safe, unsafe and unsafe→safe retrieval of one split, for every model with each redirection it has.

    Safe and unsafe retrieval are in the pool of their own kind and do not depend on the redirection of unsafe queries:
    they stand in a model's first row. *Ours* moves to the calibrated boundary; *ours and filter* is the whole system.
    """
    header = (
        "model",
        "redirection",
        "T → I R@1",
        "I → T R@1",
        "T* → I* R@1",
        "I* → T* R@1",
        "T* → I in I ∪ I* R@1",
        "R@10",
        "harmful@1",
        "I* → T in T ∪ T* R@1",
        "R@10",
        "harmful@1",
    )
    plain = ("safe_t2i.r1", "safe_i2t.r1", "unsafe_t2i.r1", "unsafe_i2t.r1")
    rows = []
    for result in evaluations:
        figure = result.figures.get
        for how, label in _HOW.items():
            keys = [f"published.{search}.{how}" for search in _DIRECTIONS.values()]
            if not any(f"{key}.r1" in result.figures for key in keys):
                continue
            cells = [percent(figure(key)) if how == "none" else "" for key in plain]
            for key in keys:
                cells += [percent(figure(f"{key}.{name}")) for name in ("r1", "r10", "harmful1")]
            rows.append((result.subject.name, label, *cells))
        systems = [f"twin_{direction}.system" for direction in _DIRECTIONS]
        if f"{systems[0]}.r1" in result.figures:
            cells = [percent(figure(f"{key}.{name}")) for key in systems for name in ("r1", "r10", "harmful1")]
            rows.append((result.subject.name, "ours and filter", "", "", "", "", *cells))
    return Table(f"As in the paper, {title(evaluations)}, in % ({sample(evaluations)})", header, tuple(rows))


def published_table(evaluations: Sequence[Evaluation]) -> Table:
    """The five searches of the published evaluation with its two bounds, next to ours, for one split.

    *Score* is the share of queries whose first hit is in the first-named group of the pool.
    """
    header = ("search", "model", *(f"{name}, {_SHORT[how]}" for how in _HOW for name in ("R@1", "score")))
    rows = []
    for name, search in SEARCHES.items():
        for result in evaluations:
            keys = [f"published.{name}.{how}.{part}" for how in _HOW for part in ("r1", "first")]
            if not any(key in result.figures for key in keys):
                continue
            cells = [percent(result.figures.get(key)) for key in keys]
            rows.append((f"{search.label} ({name})", result.subject.name, *cells))
    return Table(f"Published evaluation, {title(evaluations)}, in % ({sample(evaluations)})", header, tuple(rows))


_SHORT = {"none": "as asked", "percentile": "percentile", "mean": "mean", "geodesic": "ours"}


def classification_table(evaluations: Sequence[Evaluation]) -> Table:
    """Safe or unsafe by radius, of one split: all points, then each category's unsafe ones against all safe ones."""
    kinds = {"AUC": ("auc", number), "accuracy": ("accuracy", percent), "FPR at 95 % TPR": ("fpr95", percent)}
    header = ("category", "model", "n", *(f"{modality}: {kind}" for modality in MODALITIES for kind in kinds))
    rows = []
    for result in evaluations:
        if "fpr95.text" not in result.figures:
            continue
        names = dict.fromkeys(key.split(".")[1] for key in result.figures if key.startswith("category."))
        for label, prefix in (("all", ""), *((name, f"category.{name}.") for name in names)):
            cells = [
                show(result.figures.get(f"{prefix}{key}.{modality}"))
                for modality in MODALITIES
                for key, show in kinds.values()
            ]
            rows.append((label, result.subject.name, str(result.figures[f"{prefix}auc.text"].n), *cells))
    heading = f"Classification by radius, {title(evaluations)}, accuracy and FPR in % ({sample(evaluations)})"
    return Table(heading, header, tuple(rows))


def zero_shot_table(evaluations: Sequence[Evaluation]) -> Table:
    """Names of single things against pictures, of one split: how often the nearest name is of something shown."""
    header = ("pictures", "model", "top-1", "chance")
    rows = []
    for side in ("safe", "unsafe"):
        for result in evaluations:
            if (found := result.figures.get(f"zeroshot.{side}")) is not None:
                chance = result.figures[f"zeroshot.{side}.chance"]
                rows.append((side, result.subject.name, percent(found), f"{chance.value:.1%}".replace("%", "")))
    return Table(f"Zero-shot, {title(evaluations)}, in % ({sample(evaluations)})", header, tuple(rows))
