"""The model card of a bundle that was trained on the scenes: what it is, what it reaches, what it cannot do.

    python benchmarks/model_card.py                        # writes README.md into the bundled model's folder

Evaluates the bundle, its baselines and other runs on all test splits, as `hysac eval` does. Run it after
`hysac export`, which replaces the bundle's whole folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from english import measured, table

from hysac_export.evaluation.paper import classification_table, paper_table, zero_shot_table
from hysac_export.evaluation.report import entailment_table, quality_table
from hysac_export.evaluation.subjects import Evaluation, baseline_folders, evaluate_subjects, load_subject, with_profile
from hysac_export.evaluation.table import Table, sample, split_title
from hysac_retrieval.cli.eval import TEST_SPLITS
from hysac_retrieval.encoder.bundle import Bundle

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "hysac_retrieval" / "models" / "hysac-mini"
POLICY = "general"
NOTES = ROOT / "benchmarks" / "results" / "hysac-mini-notes.md"


def card(bundle: Bundle, evaluations: Sequence[Evaluation], texts: Table | None = None) -> str:
    """The card as Markdown.

    Args:
        bundle: The bundle that it is of.
        evaluations: Of the bundle first, and of what it is compared with, on the same splits.
        texts: What it reaches on plain texts.
    """
    manifest = bundle.manifest
    config: dict[str, Any] = manifest.training.get("config", {})
    tables = [quality_table(evaluations), quality_table(evaluations, "image"), classification_summary(evaluations)]
    tables += [texts] if texts else []
    first = [e for e in evaluations if e.split == evaluations[0].split]
    tables.append(entailment_summary([e for e in evaluations if e.subject is evaluations[0].subject]))
    tables += [table for build in (paper_table, classification_table, zero_shot_table) if (table := build(first)).rows]
    facts = {
        "parameters": f"{manifest.training['parameters'] / 1e6:.1f} million"
        if "parameters" in manifest.training
        else "",
        "space": f"{manifest.dim} dimensions, curvature −{manifest.curvature:.3f}",
        "pictures": f"{manifest.image.size}×{manifest.image.size} pixels" if manifest.image else "",
        "texts": f"English, {manifest.text.context_length} tokens" if manifest.text else "",
        "training": " ".join(
            f"{config[key]} {words}"
            for key, words in (
                ("stem_steps", "steps of the stem,"),
                ("text_steps", "of the texts alone at the end,"),
                ("steps", "steps of"),
                ("batch_size", "quadruplets"),
            )
            if config.get(key)
        ),
        "seed": str(config.get("seed", "")),
        "calibration": manifest.safety.source,
        "fingerprint": f"`{bundle.fingerprint}`",
        "licence": manifest.licence,
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value)
    return "\n\n".join(
        [
            f"# {manifest.name}",
            manifest.description,
            "A HySAC (hyperbolic safety-aware CLIP, arXiv 2503.12127): the distance from the origin grows along safe "
            "text < safe image < unsafe text < unsafe image, so that a radius is a safety score. It was trained on the "
            "scenes of `hysac_export.data.scenes`, pictures composed of emoji artwork with English captions in which "
            "some things are unsafe, always or by their company"
            + (
                f"; its texts are read by {config['model']['text']['pretrained']}, frozen, and it learned from "
                f"sentence pairs of the policy `{config['texts']['policy']}`, too."
                if config.get("texts")
                else "."
            ),
            f"| | |\n|---|---|\n{rows}",
            "## What it is for, and what not\n\nTrying, testing and measuring the software without a network or a "
            "GPU. It knows pictures of the scenes and no others, and plain English as far as the table below says: it "
            "is no model for photographs, and its scores protect nobody from real content. Unsafe things that it has "
            "never seen, and pictures in a style of artwork that it has never seen, it recognises only as far as the "
            "tables below say.",
            "## What it reaches\n\nNo quadruplet of these four splits was in training or calibration. `python "
            "benchmarks/model_card.py` writes this page, and `hysac eval` prints more. *Traversal* moves unsafe "
            "queries to the calibrated boundary, *whole system* adds the filter on the stored scores. *Harmful@1* is "
            "the share of unsafe queries whose first hit is unsafe. A dash is what does not apply: a Euclidean model "
            "has no radius.",
            *(table.markdown() for table in tables),
        ]
    )


def notes_for(bundle: Bundle) -> str:
    """Return the notes written by hand about this very model, for the end of its card; empty for any other."""
    first, notes = NOTES.read_text(encoding="utf-8").split("\n", 1)
    return notes.rstrip() if bundle.fingerprint in first else ""


def classification_summary(evaluations: Sequence[Evaluation]) -> Table:
    """Classification by radius over whole splits, without their categories."""
    table = classification_table(evaluations)
    having = [e for e in evaluations if "fpr95.text" in e.figures]
    whole = [row for row in table.rows if row[0] == "all"]
    rows = [(split_title(e), *row[1:]) for e, row in zip(having, whole, strict=True)]
    title = table.title.replace(f", {split_title(evaluations[0])}", "")
    return replace(table, title=title, header=("split", *table.header[1:]), rows=tuple(rows))


def entailment_summary(evaluations: Sequence[Evaluation]) -> Table:
    """Pairs of one model in its cones, of every split."""
    parts = [(split_title(evaluation), entailment_table([evaluation])) for evaluation in evaluations]
    rows = [(title, row[0], *row[2:]) for title, table in parts for row in table.rows]
    header = parts[0][1].header
    name = f"Entailment of {evaluations[0].subject.name}, in % ({sample(evaluations)})"
    return Table(name, ("split", header[0], *header[2:]), tuple(rows), labels=3)


@click.command(help=__doc__)
@click.option("--model", default=BUNDLED, type=click.Path(exists=True, path_type=Path), help="Folder of the bundle.")
@click.option(
    "--ablation", multiple=True, type=click.Path(path_type=Path), help="More run folders, such as other seeds."
)
@click.option("-n", "n", default=1000, show_default=True, help="Quadruplets of each split.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: README.md of the bundle]")
def main(model: Path, ablation: tuple[Path, ...], n: int, out: Path | None) -> None:
    subjects = [load_subject(run) for run in (model, *baseline_folders(), *ablation)]
    # A bundle brings its calibration, a run is given one in the same way.
    subjects = [with_profile(subject, n) for subject in subjects]
    evaluations = evaluate_subjects(subjects, TEST_SPLITS, n)
    target = out or model / "README.md"
    bundle = Bundle.load(model)
    own = next(e for e in evaluations if e.subject is subjects[0] and e.split == "test")
    english = measured(subjects[0], POLICY, "test", own.encoded)
    text = card(bundle, evaluations, table({subjects[0].name: english}, POLICY, "test")) + "\n" + notes_for(bundle)
    target.write_text(text.rstrip() + "\n", encoding="utf-8")
    click.echo(f"Wrote {target}")


if __name__ == "__main__":
    main()
