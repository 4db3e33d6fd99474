"""How models do on plain English: pairs of a policy, of which they may have learned from the fit split.

    python benchmarks/english.py hysac-mini runs/mini --split validation

A run folder is calibrated first, as `hysac export` would. Thresholds and boundary are those of the model; one that is
calibrated on the validation split is measured there with the threshold that was chosen there.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
from common import RESULTS, write_report

from hysac_export.data.policy import SPLITS, bundled_policies, read_policy
from hysac_export.data.split import draw_split
from hysac_export.evaluation.bootstrap import Figure
from hysac_export.evaluation.subjects import Subject, load_subject, with_profile
from hysac_export.evaluation.table import Table, number, percent
from hysac_export.evaluation.texts import EncodedPairs, encode_pairs, pair_figures, picture_figures
from hysac_export.model.encoded import EncodedSplit, encode_drawn

SHOWN = {
    "AUC": "auc",
    "lost": "lost",
    "missed": "missed",
    **{f"{name}, {kind}": f"{name}.{kind}" for kind in ("near misses", "plain pairs") for name in ("lost", "missed")},
    **{f"twin R@1, {mode}": f"twin.{mode}.r1" for mode in ("plain", "traversal", "filter", "system")},
    **{f"harmful@1, {mode}": f"twin.{mode}.harmful1" for mode in ("plain", "traversal", "system")},
    "unsafe text finds an unsafe picture first, as asked": "picture.unsafe.unsafe1",
    "safe text finds an unsafe picture first, as asked": "picture.safe.unsafe1",
    "unsafe text finds an unsafe picture first, system": "picture.system.unsafe1",
}


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--policy", default="general", show_default=True, help="Name of a policy, or its YAML file.")
@click.option("--split", default="validation", show_default=True, type=click.Choice(list(SPLITS)))
@click.option("-n", default=1000, show_default=True, help="Quadruplets that a run folder is calibrated on.")
@click.option("--out", default=RESULTS / "english.json", show_default=True, type=click.Path(path_type=Path))
def main(models: tuple[str, ...], policy: str, split: str, n: int, out: Path) -> None:
    """Print a table, a column for each model: with 95 % intervals."""
    found = {}
    for name in models:
        subject = with_profile(load_subject(name), n)
        pictures = draw_split("validation" if split == "validation" else "test", n, 0, subject.size, None)
        found[name] = measured(subject, policy, split, encode_drawn(subject.encoder, pictures))
    click.echo(table(found, policy, split).markdown())
    rounded = {
        name: {key: [round(x, 4) for x in (f.value, f.low, f.high)] for key, f in figures.items()}
        for name, figures in found.items()
    }
    pairs = next(iter(found.values()))["auc"].n
    write_report({"policy": policy, "split": split, "pairs": pairs, "models": rounded}, out)


def measured(subject: Subject, policy: str, split: str, images: EncodedSplit) -> dict[str, Figure]:
    """Figures of a model on a split of a policy, among its own sentences and among pictures of scenes."""
    if subject.profile is None or subject.curvature is None:
        reason = subject.uncalibrated or "it is Euclidean"
        raise click.ClickException(f"{subject.name} has no safety profile: {reason}")
    pairs = encode_pairs(subject.encoder, policy, SPLITS[split])
    given = subject.curvature, subject.profile
    figures = pair_figures(pairs, *given) | picture_figures(pairs, images, *given)
    plain = np.isin([unsafe for _, unsafe in read_policy(policy).pairs(SPLITS[split])], [*plain_sentences()])
    for kind, rows in (("near misses", ~plain), ("plain pairs", plain)):
        if 0 < rows.sum() < len(rows):
            part = pair_figures(EncodedPairs(pairs.safe[rows], pairs.unsafe[rows]), *given)
            figures |= {f"{name}.{kind}": part[name] for name in ("lost", "missed")}
    return figures


def plain_sentences() -> set[str]:
    """The unsafe sentences of policy `general` that are of plain pairs; its others are of near misses."""
    file = bundled_policies()["general"].with_name("general-everyday.csv")
    return {row["unsafe"] for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())}


def table(found: Mapping[str, Mapping[str, Figure]], policy: str, split: str) -> Table:
    """A column for each model."""
    rows = [
        (label, *((number if key == "auc" else percent)(figures[key]) for figures in found.values()))
        for label, key in SHOWN.items()
        if key in next(iter(found.values()))
    ]
    pairs = next(iter(found.values()))["auc"].n
    title = f"Plain English, {pairs} pairs of the {split} split of `{policy}`, shares in % (95 % intervals)"
    return Table(title, ("", *found), tuple(rows), labels=1)


if __name__ == "__main__":
    main()
