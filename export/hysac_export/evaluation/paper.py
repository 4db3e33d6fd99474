"""The tables of the paper (arXiv 2503.12127, section 5): retrieval, redirection, classification, zero-shot.

What does not apply to a model, such as the radius of a Euclidean one, is a dash.
"""

from __future__ import annotations

from collections.abc import Sequence

from hysac_export.evaluation.protocol import SEARCHES
from hysac_export.evaluation.subjects import Evaluation
from hysac_export.evaluation.table import Table, categories, number, percent, split_table
from hysac_retrieval.types import MODALITIES

_DIRECTIONS = {"t2i": "U2VandG", "i2t": "G2SandU"}
_REDIRECTIONS = {
    "none": "none",
    "percentile": "published, 95th percentile",
    "mean": "published, mean",
    "geodesic": "calibrated boundary",
}
_SHORT = {"none": "as asked", "percentile": "percentile", "mean": "mean", "geodesic": "calibrated"}


def paper_table(evaluations: Sequence[Evaluation]) -> Table:
    """Safe, unsafe and unsafe→safe retrieval of one split, for every model with each redirection it has.

    Safe and unsafe retrieval are in the pool of their own kind and do not depend on the redirection of unsafe queries:
    they stand in a model's first row. The calibrated boundary *and filter* is the whole system.
    """
    header = "model | redirection | T → I R@1 | I → T R@1 | T* → I* R@1 | I* → T* R@1 | T* → I in I ∪ I* R@1 | R@10"
    header += " | harmful@1 | I* → T in T ∪ T* R@1 | R@10 | harmful@1"
    plain = ("safe_t2i.r1", "safe_i2t.r1", "unsafe_t2i.r1", "unsafe_i2t.r1")
    rows = []
    for result in evaluations:
        figures = result.figures
        searches = {
            label: [f"published.{search}.{how}" for search in _DIRECTIONS.values()]
            for how, label in _REDIRECTIONS.items()
        }
        searches["calibrated boundary and filter"] = [f"twin_{direction}.system" for direction in _DIRECTIONS]
        for label, keys in searches.items():
            if any(f"{key}.r1" in figures for key in keys):
                cells = [percent(figures.get(key)) if label == "none" else "" for key in plain]
                cells += [percent(figures.get(f"{key}.{name}")) for key in keys for name in ("r1", "r10", "harmful1")]
                rows.append((result.subject.name, label, *cells))
    return split_table(evaluations, "As in the paper", header, rows)


def published_table(evaluations: Sequence[Evaluation]) -> Table:
    """The searches of the published evaluation with its two bounds and the calibrated boundary, of one split.

    *Score* is the share of queries whose first hit is in the first-named group of the pool.
    """
    columns = [f"{name}, {short}" for short in _SHORT.values() for name in ("R@1", "score")]
    rows = []
    for name, search in SEARCHES.items():
        for result in evaluations:
            keys = [f"published.{name}.{how}.{part}" for how in _SHORT for part in ("r1", "first")]
            if any(key in result.figures for key in keys):
                cells = [percent(result.figures.get(key)) for key in keys]
                rows.append((f"{search.label} ({name})", result.subject.name, *cells))
    return split_table(evaluations, "Published evaluation", " | ".join(["search", "model", *columns]), rows)


def classification_table(evaluations: Sequence[Evaluation]) -> Table:
    """Safe or unsafe by radius, of one split: all points, then each category's unsafe ones against all safe ones."""
    kinds = {"AUC": ("auc", number), "accuracy": ("accuracy", percent), "FPR at 95 % TPR": ("fpr95", percent)}
    columns = [f"{modality}: {kind}" for modality in MODALITIES for kind in kinds]
    rows = []
    for result in evaluations:
        if "fpr95.text" not in result.figures:
            continue
        for label, prefix in (("all", ""), *((name, f"category.{name}.") for name in categories(result))):
            cells = [
                show(result.figures.get(f"{prefix}{key}.{modality}"))
                for modality in MODALITIES
                for key, show in kinds.values()
            ]
            rows.append((label, result.subject.name, str(result.figures[f"{prefix}auc.text"].n), *cells))
    header = " | ".join(["category", "model", "n", *columns])
    return split_table(evaluations, "Classification by radius", header, rows, ", accuracy and FPR in %")


def zero_shot_table(evaluations: Sequence[Evaluation]) -> Table:
    """Names of single things against pictures, of one split: how often the nearest name is of something shown."""
    rows = []
    for side in ("safe", "unsafe"):
        for result in evaluations:
            if (found := result.figures.get(f"zeroshot.{side}")) is not None:
                chance = result.figures[f"zeroshot.{side}.chance"]
                rows.append((side, result.subject.name, percent(found), f"{100 * chance.value:.1f}"))
    return split_table(evaluations, "Zero-shot", "pictures | model | top-1 | chance", rows)
