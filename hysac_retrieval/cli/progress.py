"""Follow a run of indexing: show its progress, let Ctrl-C end it in good order, print its report."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import FAILED_ITEMS, progress_bar
from hysac_retrieval.errors import printable

if TYPE_CHECKING:
    from hysac_retrieval.ingest import IndexReport, Progress

_SHOWN = 20


@contextmanager
def followed(what: str) -> Iterator[dict[str, Any]]:
    """Show a bar with items, failed ones, rate and time left, and let Ctrl-C end a run; yield what a run takes for it.

    The first Ctrl-C finishes the current batch; a second one interrupts at once.
    """
    stopped = threading.Event()
    with progress_bar("rate", "failed") as bar, ExitStack() as restored:
        task = bar.add_task(what, total=None, rate="", failed="")

        def show(now: Progress) -> None:
            speed, failed = bar.tasks[0].speed, f"{now.failed} failed" if now.failed else ""
            rate = f"{speed:.0f}/s" if speed else ""
            bar.update(task, completed=now.done, total=now.total, rate=rate, failed=failed)

        def handle(number: int, frame: Any) -> None:
            restored.close()
            stopped.set()

        # Signals belong to the main thread; elsewhere (a test, a notebook) nothing is changed.
        if threading.current_thread() is threading.main_thread():
            restored.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, handle))
        yield {"on_progress": show, "should_stop": stopped.is_set}


def print_report(report: IndexReport, notes: Path | None, done: str, skipped: str) -> None:
    """Print what a run did, in words that begin with `done`, and what needs attention; `notes` is its journal."""
    counts = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in report.indexed.items() if count]
    rate = f" ({report.total / report.seconds:.0f}/s)" if report.total else ""
    click.echo(f"{done} {', '.join(counts) or 'nothing'} in {report.seconds:.1f} s{rate}.")
    for count, words in (
        (report.skipped, skipped),
        (report.left_out, "were left out, as --only asks"),
        (report.pruned, "were removed, having left their source"),
        (report.unknown, "texts are unlike what the model knows, so that their scores say little"),
        (report.lacking, "points have neither field; no safe search returns them"),
    ):
        if count:
            click.echo(f"{count} {words}.")
    for remark in report.remarks:
        click.echo(f"Note: {remark}", err=True)
    if report.unpruned:
        click.echo(f"Nothing was removed: {report.unpruned}.", err=True)
    if report.refused:
        click.echo("Hint: if they are meant to go, give --yes or a larger --prune-limit", err=True)
    if report.cut:
        some = printable(", ".join(report.truncated[:3])) + (", …" if report.cut > 3 else "")
        click.echo(f"{report.cut} texts are longer than the model reads; only their beginning counts: {some}")
        click.echo("That is for what they are found by; all of them is judged. hysac index --chunk stores all of them.")
    if report.differing:
        click.echo(
            f"{report.differing} points are not the same on all copies. Run it again for their sources, or remove them "
            "with --prune; `hysac status` counts them.",
            err=True,
        )
    if report.failures:
        click.echo(f"Failed: {report.failures}", err=True)
        for failure in report.failed[:_SHOWN]:
            click.echo(printable(f"  {failure.item}: {failure.error}"), err=True)
        if report.failures > _SHOWN:
            where = f"{notes} holds" if notes else "--journal FILE writes"
            click.echo(f"  … and {report.failures - _SHOWN} more; {where} all of them", err=True)


def exit_after(ctx: click.Context, report: IndexReport) -> None:
    """End the command with the exit code that a report calls for."""
    if report.interrupted:
        click.echo("Interrupted. What was done is stored; the same command goes on from there.", err=True)
        ctx.exit(1)
    ctx.exit(1 if report.refused else FAILED_ITEMS if report.failures or report.differing else 0)
