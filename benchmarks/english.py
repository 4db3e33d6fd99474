"""How models do on plain English: pairs of a policy, of which they may have learned from the fit split.

    python benchmarks/english.py hysac-mini runs/mini --split validation

A run folder is calibrated first, as `hysac export` would. Thresholds and boundary are those of the model; one that is
calibrated on the validation split is measured there with the threshold that was chosen there.
"""

from __future__ import annotations

from pathlib import Path

import click
from common import RESULTS, show_table, write_report

from hysac_export.data.policy import SPLITS
from hysac_export.evaluation.subjects import load_subject, with_profile
from hysac_export.evaluation.texts import encode_pairs, pair_figures

SHOWN = {
    "AUC": "auc",
    "lost": "lost",
    "missed": "missed",
    **{f"twin R@1, {mode}": f"twin.{mode}.r1" for mode in ("plain", "traversal", "filter", "system")},
    **{f"harmful@1, {mode}": f"twin.{mode}.harmful1" for mode in ("plain", "traversal", "system")},
}


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--policy", default="general", show_default=True, help="Name of a policy, or its YAML file.")
@click.option("--split", default="validation", show_default=True, type=click.Choice(list(SPLITS)))
@click.option("-n", default=1000, show_default=True, help="Quadruplets that a run folder is calibrated on.")
@click.option("--out", default=RESULTS / "english.json", show_default=True, type=click.Path(path_type=Path))
def main(models: tuple[str, ...], policy: str, split: str, n: int, out: Path) -> None:
    """Print a table, a column for each model: shares with their 95 % intervals."""
    rows, report = [], {}
    for name in models:
        subject = with_profile(load_subject(name), n)
        if subject.profile is None or subject.curvature is None:
            raise click.ClickException(f"{name} has no safety profile: {subject.uncalibrated or 'it is Euclidean'}")
        pairs = encode_pairs(subject.encoder, policy, SPLITS[split])
        found = pair_figures(pairs, subject.curvature, subject.profile)
        report[name] = {key: [round(x, 4) for x in (f.value, f.low, f.high)] for key, f in found.items()}
        rows.append([f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in (found[key] for key in SHOWN.values())])
    click.echo(f"{len(pairs.safe)} pairs of the {split} split of {policy}\n")
    show_table(["", *models], [[label, *cells] for label, *cells in zip(SHOWN, *rows, strict=True)])
    write_report({"policy": policy, "split": split, "pairs": len(pairs.safe), "models": report}, out)


if __name__ == "__main__":
    main()
