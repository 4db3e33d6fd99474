"""The results of an evaluation as tables for a terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from hysac_export.data.split import GROUPS
from hysac_export.evaluation.entailment import RELATIONS, Cones
from hysac_export.evaluation.paper import classification_table, paper_table, published_table, zero_shot_table
from hysac_export.evaluation.subjects import Evaluation
from hysac_export.evaluation.table import NONE, Table, categories, number, percent, sample, split_table, split_title
from hysac_retrieval.types import Modality

_MODES = {
    "plain": "",
    "traversal": ", traversal",
    "reference": ", published traversal",
    "filter": ", pool filter alone",
    "system": ", whole system",
}
_SEARCHES = {
    "safe_t2i": "T → I",
    "safe_i2t": "I → T",
    "unsafe_t2i": "T* → I*",
    "unsafe_i2t": "I* → T*",
    **{f"twin_t2i.{mode}": f"T* → I in I ∪ I*{words}" for mode, words in _MODES.items()},
    **{f"twin_i2t.{mode}": f"I* → T in T ∪ T*{words}" for mode, words in _MODES.items()},
    "safe_t2i.union": "T → I in I ∪ I*",
    "safe_t2i.system": "T → I in I ∪ I*, whole system",
    "safe_i2t.union": "I → T in T ∪ T*",
    "safe_i2t.system": "I → T in T ∪ T*, whole system",
}

CHAIN = "T → I*, of all T → I → I*"
"""The row about chains: shares of those in one quadruplet, and of all, that are closed."""


def quality_table(evaluations: Sequence[Evaluation], modality: Modality = "text") -> Table:
    """The figures the bundled model is held to, for queries of a modality: one row for each split and model.

    Radii and AUC do not depend on the query; they stand in the table of text queries.
    """
    direction, safe = ("t2i", "safe T→I R@1") if modality == "text" else ("i2t", "safe I→T R@1")
    columns = {
        safe: (percent, f"safe_{direction}.r1"),
        "unsafe→safe R@1, traversal": (percent, f"twin_{direction}.traversal.r1"),
        "harmful@1, traversal": (percent, f"twin_{direction}.traversal.harmful1"),
        "unsafe→safe R@1, whole system": (percent, f"twin_{direction}.system.r1"),
        "harmful@1, whole system": (percent, f"twin_{direction}.system.harmful1"),
    }
    if modality == "text":
        areas = {"AUC text": (number, "auc.text"), "AUC image": (number, "auc.image")}
        columns = {"radii in order": (number, "order"), **columns, **areas}
    rows = [
        (split_title(result), result.subject.name, *(show(result.figures.get(key)) for show, key in columns.values()))
        for result in evaluations
    ]
    heading = f"Quality, {modality} queries, shares in % ({sample(evaluations)})"
    return Table(heading, ("split", "model", *columns), tuple(rows))


def retrieval_table(evaluations: Sequence[Evaluation]) -> Table:
    """All searches of one split, the models one below the other."""
    rows = [
        (
            label,
            e.subject.name,
            *(percent(e.figures.get(f"{key}.{x}")) for x in ("r1", "r10", "r20", "harmful1", "lost")),
        )
        for key, label in _SEARCHES.items()
        for e in evaluations
        if f"{key}.r1" in e.figures
    ]
    header = "search | model | R@1 | R@10 | R@20 | harmful@1 | R@1 lost to the filter"
    return split_table(evaluations, "Retrieval", header, rows)


def radius_table(evaluations: Sequence[Evaluation]) -> Table:
    """Radii of the four groups of one split, for every model that has radii."""
    rows = []
    for result in evaluations:
        for group in GROUPS if "order" in result.figures else ():
            cells = [number(result.figures.get(f"radius.{group}.{name}")) for name in ("mean", "std")]
            cells += [percent(result.figures.get(f"{name}.{group}")) for name in ("moved", "above")]
            rows.append((group.replace("_", " "), result.subject.name, *cells))
    header = "group | model | radius, mean | radius, std | beyond the boundary, % | above the threshold, %"
    return split_table(evaluations, "Radii", header, rows, "")


def category_table(evaluations: Sequence[Evaluation]) -> Table:
    """Safety by category of one split, for every model."""
    keys = [f"twin_{way}.{mode}.harmful1" for way in ("t2i", "i2t") for mode in ("traversal", "system")]
    rows = []
    for result in evaluations:
        for name in categories(result) if "order" in result.figures else ():
            part = {key: result.figures.get(f"category.{name}.{key}") for key in (*keys, "auc.text", "auc.image")}
            size = result.figures[f"category.{name}.auc.text"].n
            cells = [(number if key.startswith("auc") else percent)(figure) for key, figure in part.items()]
            rows.append((name, result.subject.name, str(size), *cells))
    ways = [f"harmful@1 {query}, {how}" for query in ("T*", "I*") for how in ("traversal", "whole system")]
    header = " | ".join(["category", "model", "n", *ways, "AUC text", "AUC image"])
    return split_table(evaluations, "Categories", header, rows, ", harmful@1 in %")


def entailment_table(evaluations: Sequence[Evaluation]) -> Table:
    """How many pairs lie in the cones of one split, for every model that has cones."""
    rows = []
    names: dict[str, str] = {name: name.replace("<", " → ") for name in RELATIONS}
    for relation, words in (names | {"chain": CHAIN}).items():
        for result in evaluations:
            for cones in get_args(Cones):
                at = f"entailment.{cones}.{relation}"
                if f"{at}.matched" in result.figures or f"{at}.unmatched" in result.figures:
                    width = result.figures.get(f"{at}.aperture")
                    shares = (percent(result.figures.get(f"{at}.{name}")) for name in ("matched", "unmatched"))
                    area = number(result.figures.get(f"{at}.auc"))
                    rows.append(
                        (words, result.subject.name, cones, f"{width.value:.1f}" if width else NONE, *shares, area)
                    )
    header = "pair | model | cones | half aperture, ° | matched inside | unmatched inside | AUC of the angle"
    table = split_table(evaluations, "Entailment", header, rows)
    return replace(table, labels=3)


def tables(evaluations: Sequence[Evaluation], *, details: bool = True) -> list[Table]:
    """The quality tables, then the details split by split.

    Without details, the paper's table of the first split; of the others no more than the first two models are shown,
    which are the one in question and its first baseline.
    """
    parts = [[e for e in evaluations if e.split == split] for split in dict.fromkeys(e.split for e in evaluations)]
    if not details:
        shown = [e for place, part in enumerate(parts) for e in (part[:2] if place else part)]
        return [quality_table(shown), quality_table(shown, "image"), paper_table(parts[0])]
    result = [quality_table(evaluations), quality_table(evaluations, "image")]
    kinds: Any = (paper_table, published_table, retrieval_table, classification_table, radius_table, category_table)
    kinds = (*kinds, entailment_table)
    return result + [table for part in parts for build in (*kinds, zero_shot_table) if (table := build(part)).rows]


def to_dict(evaluations: Sequence[Evaluation], **settings: Any) -> dict[str, Any]:
    """Everything as plain JSON-serialisable values: settings, then the models with their profiles and figures."""
    models: dict[str, Any] = {}
    for result in evaluations:
        subject = result.subject
        entry = models.setdefault(
            subject.name,
            {
                "source": subject.source,
                "curvature": subject.curvature,
                "profile": subject.profile.model_dump(mode="json") if subject.profile else None,
                "uncalibrated": subject.uncalibrated or None,
                "entailment": subject.entailment.model_dump(mode="json") if subject.entailment else None,
                "splits": {},
            },
        )
        entry["splits"][result.split] = {name: asdict(figure) for name, figure in result.figures.items()}
    return {**settings, "models": models}
