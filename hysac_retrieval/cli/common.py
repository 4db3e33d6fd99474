"""What the commands share: options, errors, output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from hysac_retrieval.errors import HysacError, MissingExtraError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from hysac_retrieval.safety.profile import SafetyProfile
    from hysac_retrieval.stores import Connection

F = TypeVar("F", bound=Callable[..., Any])

FAILED_ITEMS = 3
"""Exit code of a command that finished although some items failed."""

DEFAULT_MODEL = "hysac-mini"
_PLAIN_WIDTH = 120


@contextmanager
def reported() -> Iterator[None]:
    """Turn an error of ours into one message on stderr and an exit code: 2 for wrong options, otherwise 1."""
    try:
        yield
    except SettingsError as error:
        raise click.UsageError(str(error), click.get_current_context(silent=True)) from error
    except HysacError as error:
        raise click.ClickException(str(error)) from error


def keep_lines(help: str | None) -> str | None:
    r"""Help in which ``\b`` before a paragraph, as raw docstrings have it, is the mark with which click keeps lines."""
    return None if help is None else help.replace("\\b\n", "\b\n")


class Command(click.Command):
    """A command that reports errors properly even when it runs on its own, outside of the group."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.context_settings.setdefault("help_option_names", ["-h", "--help"])
        self.help = keep_lines(self.help)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with reported():
            return super().invoke(ctx)


def json_option(function: F) -> F:
    """Add ``--json``, the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(function)


def model_option(function: F) -> F:
    """Add ``--model``."""
    return click.option(
        "--model",
        default=DEFAULT_MODEL,
        show_default=True,
        envvar="HYSAC_MODEL",
        help="Bundled model, bundle folder, or owner/name on the Hugging Face hub.",
    )(function)


def connection_options(function: F) -> F:
    """Add ``--location``, ``--url`` and what goes with them; `connection` makes arguments of them."""
    for option in (
        click.option("--prefer-grpc", is_flag=True, envvar="HYSAC_PREFER_GRPC", help="Speak gRPC to the server."),
        click.option("--api-key", envvar="HYSAC_API_KEY", show_envvar=True, help="Key of the server."),
        click.option(
            "--url", metavar="URL", envvar="HYSAC_URL", show_envvar=True, help="Qdrant server or cloud cluster."
        ),
        click.option(
            "--location",
            metavar="DIR",
            envvar="HYSAC_LOCATION",
            show_envvar=True,
            help="Folder of collections on the embedded engine.",
        ),
    ):
        function = option(function)
    return function


def connection(location: str | None, url: str | None, api_key: str | None, prefer_grpc: bool) -> Connection:
    """Where collections live, from the options of `connection_options`.

    Raises:
        click.UsageError: Not exactly one of location and url is given.
    """
    if location is not None and url is not None:  # what is said on the command line counts before the environment
        location, url = (value if _was_said(name) else None for name, value in (("location", location), ("url", url)))
    if (location is None) == (url is None):
        found = "both" if location is not None else "neither"
        raise click.UsageError(
            f"say where the collections live: --location DIR for a folder, or --url URL for a server (found {found})"
        )
    if location is not None:
        return {"location": location}
    return {"url": url, "api_key": api_key, "prefer_grpc": prefer_grpc}


def _was_said(name: str) -> bool:
    """Whether an option was given on the command line."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def require_training(purpose: str) -> None:
    """Check that the train extra is there.

    Raises:
        MissingExtraError: It is not.
    """
    for package in ("torch", "open_clip", "yaml", "onnx", "accelerate", "peft"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", purpose)


def print_json(value: Any) -> None:
    """Print a result for programs, on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def read_profile(path: Path) -> SafetyProfile:
    """A safety profile from a file.

    Raises:
        SettingsError: It holds none.
    """
    from pydantic import ValidationError

    from hysac_retrieval.safety.profile import SafetyProfile

    try:
        return SafetyProfile.model_validate(read_json(path))
    except ValidationError as error:
        raise SettingsError(f"{path} is no safety profile: {error}; `hysac calibrate --out` writes one") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        SettingsError: It cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as JSON: {error}") from error


def console() -> Console:
    """Console for results, on stdout; as wide as the terminal, or wide enough where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False)


@contextmanager
def progress_bar(*extra: str) -> Iterator[Progress]:
    """A progress bar on stderr, only where that is a terminal. `extra` names task fields to show after the bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in extra),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        yield progress


def shorten(value: Any, length: int = 80) -> str:
    """Text of a value, cut to a length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
