"""``hysac train``: a run folder from a config."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import Command, print_json, progress_bar, require_training, warn
from hysac_retrieval.cli.export import stages
from hysac_retrieval.cli.options import json_option
from hysac_retrieval.cli.terminal import console

if TYPE_CHECKING:
    from hysac_export.config import TrainConfig
    from hysac_export.data.quadruplets.check import DataReport


@click.command("train", cls=Command)
@click.argument("config")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Run folder; made.")
@click.option("--check", is_flag=True, help="Only look through the data and tell what it holds; exit code 1 if bad.")
@click.option("--resume", is_flag=True, help="Go on from the run folder's checkpoint.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Replace a setting, such as optim.lr=1e-3.")
@click.option("--device", help="cpu or cuda  [default: cuda if there is one]")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    config: str,
    out: Path | None,
    check: bool,
    resume: bool,
    changes: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """Train a model. CONFIG is a YAML or TOML file, or the name of a bundled config.

    Bundled are mini (the bundled model, on a CPU), mini-scenes (without a trained text encoder), published (its towers
    by the paper's losses alone), vit-b-16-24gb and visu-vit-l-14 (OpenAI's CLIP with adapters, on one or several
    GPUs). The run folder holds the config, the
    tokenizer, checkpoints, metrics (JSON Lines) and, in the end, the weights. Your own quadruplets
    (docs/own-policy.md) are looked through first. A run can start from the weights of a finished one (start_from).

    \b
    hysac train mini --out runs/mini
    hysac train mini --out runs/mini --resume
    hysac train my.yaml --check
    hysac train my.yaml --out runs/mine --set seed=1 --set data.train=quadruplets.jsonl
    hysac train my.yaml --out runs/more --set start_from=runs/mine
    accelerate launch --multi_gpu $(which hysac) train visu-vit-l-14 --out runs/visu
    """
    require_training("training")
    overrides = dict(_change(change) for change in changes)
    from hysac_export.config import TrainConfig
    from hysac_export.training.train import Trainer

    settings = TrainConfig.load(config, **overrides)
    if check:
        _check(ctx, settings, as_json)
        return
    if out is None:
        raise click.UsageError("say where the run goes: --out DIR", ctx)
    trainer = Trainer(settings, out, resume=resume, device=device)
    last: dict[str, float] = {}
    with progress_bar("figures") as bar:
        task = bar.add_task("Training", total=settings.total_steps, completed=trainer.step, figures="")

        def show(step: int, metrics: dict[str, float]) -> None:
            last.update(metrics)
            bar.update(task, completed=step, figures=figures(metrics))

        trainer.run(progress=show)
    if not trainer.processes.first:
        return
    result = {"run": str(out), "name": settings.name, "steps": trainer.step, "metrics": last}
    if trainer.best.step:
        result["best"] = asdict(trainer.best)
    if as_json:
        print_json(result)
    else:
        click.echo(f"Trained {settings.name} for {trainer.step} steps: {figures(last)}")
        if trainer.best.step:
            click.echo(f"Best at step {trainer.best.step}: recall sum {trainer.best.recall_sum:.3f} of 6")
        click.echo(f"Next: hysac export {out} --out {settings.name}-bundle")


def _check(ctx: click.Context, settings: TrainConfig, as_json: bool) -> None:
    """Print what the data of a config holds."""
    from hysac_export.training.train import check_data

    with stages() as stage:
        report = check_data(settings, stage("Decoding pictures", None))
    if as_json:
        print_json(None if report is None else asdict(report))
    elif report is None:
        click.echo(f"{settings.name} is trained on scenes, which need no check")
    else:
        _show(report)
    if report is not None and report.errors:
        ctx.exit(1)


def _show(report: DataReport) -> None:
    from hysac_export.evaluation.table import Table

    header = ("", "rows", "both pictures", "safe only", "unsafe only", "no picture", "repeated", "captions cut")
    rows = []
    for name, split in (("train", report.train), ("validation", report.validation)):
        counts = (split.rows, split.both_images, split.safe_image_only, split.unsafe_image_only, split.text_only)
        rows.append((name, *map(str, (*counts, split.repeated, split.long_captions))))
    out = console()
    out.print(Table("", header, tuple(rows), labels=1).rich())
    out.print("Categories: " + ", ".join(f"{name} {count}" for name, count in report.train.categories.items()))
    for kind, trouble in report.troubles.items():
        lines = [f"{trouble.count} × {kind}:", *(f"  {example}" for example in trouble.examples)]
        out.print("\n".join(lines))
    for word, colour, messages in (("Warning", "yellow", report.warnings), ("Error", "red", report.errors)):
        for message in messages:
            warn(f"{word}: {message}", colour)
    if not report.errors:
        out.print("The data can be trained on.")


def figures(metrics: dict[str, float]) -> str:
    """Loss, and the mean radii of safe text, safe image, unsafe text and unsafe image, in short."""
    from hysac_export.data.split import GROUPS

    if not metrics:
        return "nothing left to do"
    text = f"loss {metrics['loss']:.3f}"
    radii = [metrics[f"radius/{group}"] for group in GROUPS if f"radius/{group}" in metrics]
    return text + ("  radii " + " ".join(f"{radius:.2f}" for radius in radii) if radii else "")


def _change(text: str) -> tuple[str, Any]:
    """Parse ``key=value``, the value as JSON if it is that, else as a string."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE", param_hint="--set")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
