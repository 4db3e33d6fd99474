"""Share between the commands: how errors are reported, how results are printed, what files are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.terminal import console, json_text
from hysac_retrieval.errors import HysacError, MissingExtraError, SettingsError, printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.ingest import FailedItem
    from hysac_retrieval.safety.profile import SafetyProfile

FAILED_ITEMS = 3
"""Exit code of a command that finished although some items failed."""

_SHOWN = 10  # failed items that are named


_NO_MEMORY = "the memory that this process may use is too small\nHint: Raise its limit (ulimit -v, that of a container)"


class Command(click.Command):
    """Command that turns errors of the package into a message and an exit code: 2 for wrong options, otherwise 1.

    With ``--json`` the error is printed as JSON, on stdout.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HysacError as error:
            wrong_options = isinstance(error, SettingsError)
            if ctx.params.get("as_json"):
                print_json({"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}})
                ctx.exit(2 if wrong_options else 1)
            text = error.message + (f"\nHint: {error.hint}" if error.hint else "")
            raise (click.UsageError(text, ctx) if wrong_options else click.ClickException(text)) from error
        except MemoryError as error:
            raise click.ClickException(_NO_MEMORY) from error


def require_training(purpose: str) -> None:
    """Raise `MissingExtraError` if the train extra is not installed."""
    for package in ("torch", "open_clip", "yaml", "onnx", "accelerate", "peft", "sklearn"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", purpose)


def print_json(value: Any) -> None:
    """Print a result for programs, on stdout."""
    click.echo(json_text(value))


def read_profile(path: Path) -> SafetyProfile:
    """Read a safety profile from a file; raises `SettingsError` if it holds none."""
    from pydantic import ValidationError

    from hysac_retrieval.safety.profile import SafetyProfile

    try:
        return SafetyProfile.model_validate(read_json(path))
    except ValidationError as error:
        what = f"{path} is no safety profile: {error}"
        raise SettingsError(what, hint="Write one with `hysac calibrate --out`") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; raises `SettingsError` if that cannot be done."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read as JSON: {error}") from error


def warn(message: str, style: str = "yellow") -> None:
    """Print, on stderr, what must not be overlooked."""
    console(stderr=True).print(message, style=style, soft_wrap=True)


def tell_failed(failed: Sequence[FailedItem], as_json: bool) -> None:
    """Print on stderr which items failed, unless the result is JSON and has them."""
    if failed and not as_json:
        warn(f"{len(failed)} failed:")
        for one in failed[:_SHOWN]:
            warn(f"  {one.item}: {one.error}")


@contextmanager
def progress_bar(*extra: str) -> Iterator[Progress]:
    """Show a progress bar on stderr if that is a terminal. `extra` names task fields to show after the bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in extra),
        TimeRemainingColumn(),
    ]
    out = console(stderr=True)
    # Redirected, the escapes of what others print meanwhile would be obeyed.
    own: Any = {"redirect_stdout": False, "redirect_stderr": False}
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal, **own) as progress:
        yield progress


def shorten(value: Any, length: int = 80) -> str:
    """Put a value on one line, fit to print, cut to a length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = printable(" ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"


def load_model(model: str, function: str | None) -> Encoder:
    """Load the model of a command, whose vectors a function makes if one is named as ``module:function``."""
    if function is None:
        from hysac_retrieval.encoder.encoder import Encoder

        return Encoder.load(model)
    from hysac_retrieval.encoder.bundle import Bundle
    from hysac_retrieval.encoder.called import CalledEncoder, imported

    return CalledEncoder(Bundle.load(model), imported(function))
