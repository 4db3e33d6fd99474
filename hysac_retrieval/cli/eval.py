"""``hysac eval``: how well and how safely a model retrieves, beside its baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import Command, print_json, warn
from hysac_retrieval.cli.export import stages
from hysac_retrieval.cli.options import json_option
from hysac_retrieval.cli.terminal import console
from hysac_retrieval.errors import MissingExtraError

if TYPE_CHECKING:
    from hysac_export.evaluation.subjects import Subject

TEST_SPLITS = ("test", "context", "entities", "style")
_PLAIN_WIDTH = 220  # rows of the quality table on one line each
SPLITS = ("validation", *TEST_SPLITS)


@click.command("eval", cls=Command)
@click.option("--model", default="hysac-mini", show_default=True, help="Bundle (name, folder, hub id) or run folder.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Run folder to compare with, any number of them.  [default: those in benchmarks/baselines]",
)
@click.option("--no-baseline", is_flag=True, help="Compare with nothing.")
@click.option("--ablation", multiple=True, type=click.Path(path_type=Path), help="More run folders, a row each.")
@click.option("--split", "splits", multiple=True, type=click.Choice(SPLITS), help="[default: all test splits]")
@click.option("--data", metavar="FILE", help="Your own quadruplets instead of the splits of the scenes.")
@click.option("-n", "n", default=1000, show_default=True, type=click.IntRange(2), help="Quadruplets of each split.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of quadruplets and intervals.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write eval.json and plots here.")
@json_option
@click.option("--brief", is_flag=True, help="All models on the first split, two on the others; fewer tables.")
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
def command(
    splits: tuple[str, ...], data: str | None, n: int, seed: int, out: Path | None, as_json: bool, **options: Any
) -> None:
    """Evaluate a model on the test splits of the scenes, or on your own quadruplets.

    Prints the tables of the paper with 95 % bootstrap intervals: safe, unsafe and unsafe→safe retrieval with the
    published bounds and the calibrated ones, harmful@1, classification by radius, and a zero-shot check. A bundle
    brings its safety profile; a run folder is calibrated first, on the validation split. All models see the same
    pictures and captions.
    """
    from hysac_export.data.quadruplets.sets import draw_files
    from hysac_export.data.split import draw_split
    from hysac_export.evaluation.plots import write_plots
    from hysac_export.evaluation.report import tables, to_dict
    from hysac_export.evaluation.subjects import Draw, evaluate_subjects, load_subject, named_apart, with_profile

    chosen = splits or TEST_SPLITS
    draw: Draw = draw_split
    if data is not None:
        if splits:
            raise click.UsageError("give --data or --split, not both: the splits are those of the scenes")
        chosen, draw = (data,), lambda _, *how: draw_files((data,), *how)
    subjects = [load_subject(options["model"])]
    if not options["no_baseline"]:
        subjects += [load_subject(folder) for folder in options["baselines"]] or _default_baselines()
    subjects = named_apart([*subjects, *map(load_subject, options["ablation"])])
    with stages() as stage:
        subjects = [with_profile(subject, n, stage) for subject in subjects]
        for subject in subjects:
            if subject.uncalibrated:
                words = "has no safety profile, so neither traversal to a boundary nor the filter"
                warn(f"{subject.name} {words}: {subject.uncalibrated}")
        evaluations = evaluate_subjects(subjects, chosen, n, seed, stages=stage, draw=draw)
    result = to_dict(evaluations, n=n, seed=seed, resamples=1000)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "eval.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        try:
            write_plots(evaluations, out)
        except MissingExtraError as error:
            warn(f"No plots: {error}")
        warn(f"Wrote {out}")
    shown = tables(evaluations, details=not options["brief"])
    if as_json:
        print_json(result)
    elif options["markdown"]:
        click.echo("\n\n".join(table.markdown() for table in shown))
    else:
        out_console = console(plain_width=_PLAIN_WIDTH)
        for table in shown:
            out_console.print(table.rich())


def _default_baselines() -> list[Subject]:
    """The baselines of the bundled model, or a note that there are none."""
    from hysac_export.evaluation.subjects import baseline_folders, load_subject

    if not (runs := baseline_folders()):
        where = "the project's repository (benchmarks/baselines), not in the installed package"
        warn(f"No baselines: those of the bundled model are in {where}; give --baseline or --no-baseline.")
    try:
        return [load_subject(run) for run in runs]
    except MissingExtraError as error:
        warn(f"No baselines: {error}")
        return []
