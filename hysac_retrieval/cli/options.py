"""Options that several commands have, gathered into one argument each for the place and for the sources."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import click
from click.core import ParameterSource

from hysac_retrieval.errors import SettingsError

if TYPE_CHECKING:
    from hysac_retrieval.ingest import SourceOptions
    from hysac_retrieval.stores import Connection

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

DEFAULT_MODEL = "hysac-mini"

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
model_option = click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    envvar="HYSAC_MODEL",
    help="Bundled model, bundle folder, or owner/name on the Hugging Face hub.",
)
encoder_option = click.option(
    "--encoder",
    metavar="MODULE:FUNCTION",
    help="Python function from a list of texts to vectors, for a model that is a head for such vectors only.",
)
collection_option = click.option("--collection", required=True, help="Name of the collection.")


def _fields(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    return {name: kind or "keyword" for name, _, kind in (field.partition(":") for field in given)}


index_field_option = click.option(
    "--index-field",
    "index_fields",
    metavar="NAME[:KIND]",
    multiple=True,
    callback=_fields,
    help="Payload field to index for filters, groups and rules; keyword by default; integer, float, bool, datetime, …",
)


def _copies(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    if value in ("majority", "quorum", "all"):
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a number of copies nor majority, quorum or all", ctx, param)
    return int(value)


_wait_option = click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    envvar="HYSAC_WAIT",
    metavar="SECONDS",
    help="Time that a server which is away is waited for; 0 for a few seconds only.",
)


_consistency_option = click.option(
    "--consistency",
    default="all",
    show_default=True,
    callback=_copies,
    metavar="N",
    help="Copies on a cluster that reads ask: a number, majority, quorum or all. What one of them lacks is done again.",
)


def gathered(name: str, make: Callable[..., Any], *options: Decorator) -> Decorator:
    """Decorate a command so that several options of click reach it as one argument, `name`, that `make` makes."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(*arguments: Any, **given: Any) -> Any:
            taken = {key: given.pop(key) for key in names}
            return function(*arguments, **given, **{name: make(**taken)})

        earlier = len(getattr(command, "__click_params__", ()))
        for option in reversed(options):
            option(command)
        names = {parameter.name for parameter in vars(command)["__click_params__"][earlier:]}
        return command

    return decorate


@dataclass(frozen=True, slots=True)
class Place:
    """Where collections live, and the name of the collection for commands that work on one; see `place_options`."""

    location: str | None
    url: str | None
    server: Connection
    collection: str = ""
    path: str | None = None

    def connection(self) -> Connection:
        """Return the arguments for `Index.open` and its like; `SettingsError` if not exactly one place is given."""
        given = [place for place in (self.location, self.url, self.path) if place is not None]
        if len(given) != 1:
            what = f"where the collections live is not clear (found {'both' if given else 'neither'})"
            hint = "Give --location DIR for a folder, --url URL for a server, or --path DIR for qdrant-client's folder"
            raise SettingsError(what, hint=hint)
        if self.location is not None:
            return {"location": self.location}
        if self.path is not None:
            folder = Path(os.path.expanduser(self.path))
            if not os.path.isdir(folder):  # the client would make one, without a collection in it
                raise SettingsError(f"there is no folder {folder}", hint="Give that of QdrantClient(path=…)")
            return {"path": folder}
        return {"url": self.url, **self.server}

    def journal(self, given: str | None = None) -> Path | None:
        """Return the journal that is given, else the one beside the collection.

        For a server that is a file of this user, where such can be kept.
        """
        from hysac_retrieval.ingest.journal import JOURNAL_NAME

        if given is not None:
            return Path(os.path.expanduser(given))
        if self.location is not None:
            return Path(os.path.expanduser(self.location)) / self.collection / JOURNAL_NAME
        if self.url is None:
            return None
        name = hashlib.sha256(f"{self.url.rstrip('/')}\n{self.collection}".encode()).hexdigest()[:16]
        folder = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")) / "hysac"
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder / f"{name}.jsonl"
        return None


def place_options(collection: Decorator | None = collection_option, *, bulk: bool = False) -> Decorator:
    """Add ``--location``, ``--url`` and what goes with them, and an option for the collection, as `place`.

    Commands that do `bulk` work wait for a server that is away.
    """

    def option(name: str, *variables: str, **how: Any) -> Decorator:
        return click.option(name, envvar=list(variables), show_envvar=True, **how)

    return gathered(
        "place",
        _place,
        *filter(None, [collection, *([_wait_option, _consistency_option] if bulk else [])]),
        option("--location", "HYSAC_LOCATION", metavar="DIR", help="Folder of collections on the embedded engine."),
        option("--path", "HYSAC_PATH", metavar="DIR", help="Folder of qdrant-client's local mode."),
        option("--url", "HYSAC_URL", "QDRANT_URL", metavar="URL", help="Qdrant server or cloud cluster."),
        option("--api-key", "HYSAC_API_KEY", "QDRANT_API_KEY", help="Key of the server."),
        click.option("--prefer-grpc", is_flag=True, envvar="HYSAC_PREFER_GRPC", help="Speak gRPC to the server."),
        click.option("--grpc-port", type=click.IntRange(1, 65535), help="Its port for gRPC  [default: 6334]"),
        click.option(
            "--ca-file", type=click.Path(exists=True, dir_okay=False), help="Certificate of an authority of your own."
        ),
        click.option("--header", "headers", metavar="NAME:VALUE", multiple=True, help="Further header of requests."),
    )


def _place(
    location: str | None,
    url: str | None,
    path: str | None,
    headers: tuple[str, ...],
    collection: str | None = None,
    **server: Any,
) -> Place:
    places = {"location": location, "url": url, "path": path}
    if sum(place is not None for place in places.values()) > 1:
        # The command line counts before the environment, our variables before others.
        source = click.get_current_context().get_parameter_source
        typed = {name for name in places if source(name) is ParameterSource.COMMANDLINE}
        if not typed and "HYSAC_URL" not in os.environ:
            typed = {"location", "path"}
        places = {name: place if name in typed or not typed else None for name, place in places.items()}
    options = cast("Connection", {**server, "headers": _headers(headers)})
    return Place(places["location"], places["url"], options, collection or "", places["path"])


def _headers(given: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [header.partition(":") for header in given]
    if wrong := [header for header, colon, _ in pairs if not (header.strip() and colon)]:
        raise SettingsError(f"--header {wrong[0]!r} is not of the form NAME:VALUE")
    return {name.strip(): value.strip() for name, _, value in pairs} or None


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the model and the options of every run of indexing."""
    for option in (
        click.option("--resume/--no-resume", default=True, show_default=True, help="Skip what is done, unchanged."),
        click.option(
            "--workers",
            type=click.IntRange(min=0),
            help="Processes that decode images; 0 decodes in this one  [default: one per core, up to 8]",
        ),
        click.option(
            "--max-pixels",
            type=click.IntRange(1),
            default=89_478_485,
            show_default=True,
            help="Largest width × height of an image.",
        ),
        click.option(
            "--views",
            type=click.Choice(("fast", "thorough")),
            default="fast",
            show_default=True,
            help="What of a picture is judged: the whole and the crops that cover it, or tiles of it, too.",
        ),
        click.option(
            "--judge",
            metavar="DETECTOR",
            help="Second judge of pictures: opennsfw, nudenet or module:function; the worse of the two scores counts.",
        ),
        click.option("--strict-domain", is_flag=True, help="Fail what is unlike anything the model knows."),
        click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=1)),
        encoder_option,
        model_option,
    ):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Sources:
    """Sources to index or to compare with, how they are read, and the journal that is named for them."""

    paths: tuple[str, ...]
    options: SourceOptions
    journal: str | None


def _sources(sources: tuple[str, ...], journal: str | None, **given: Any) -> Sources:
    from hysac_retrieval.ingest import Fields, SourceOptions

    given["types"] = dict(_named_type(text) for text in given["types"])
    fields = Fields(**{kind: given.pop(f"{kind}_field") for kind in ("image", "text", "id")})
    return Sources(sources, SourceOptions(fields=fields, **given), journal)


def _named_type(text: str) -> tuple[str, str]:
    column, separator, kind = text.rpartition("=")
    if not separator or not column:
        raise SettingsError(f"--types takes NAME=TYPE, not {text!r}", hint="Such as --types zip=string")
    return column, kind


journal_option = click.option(
    "--journal",
    metavar="FILE",
    help="Journal of failed items  [default: beside the collection; for a server in ~/.local/state/hysac]",
)


source_options = gathered(
    "sources",
    _sources,
    click.argument("sources", metavar="SOURCE...", nargs=-1, required=True),
    click.option("--include", metavar="GLOB", multiple=True, help="Take only such files of folders; repeatable."),
    click.option(
        "--exclude",
        metavar="GLOB",
        multiple=True,
        help="Leave such files and folders out, beside hidden ones, thumbnails and bins; repeatable. Globs are as in "
        ".gitignore; '!.thumbnails' takes one back.",
    ),
    click.option(
        "--sidecars/--no-sidecars",
        default=True,
        show_default=True,
        help="Whether x.txt beside x.jpg is its caption, and x.json has its fields.",
    ),
    click.option("--captions", metavar="FILE", help="Table of file, caption and fields for the payload."),
    click.option("--index-captions", is_flag=True, help="Index captions as texts, too."),
    click.option("--chunk", is_flag=True, help="Index a text that is longer than the model reads as a point a window."),
    click.option("--text-field", metavar="NAME", help="Field of the text in tables  [default: caption, text]"),
    click.option("--image-field", metavar="NAME", help="Field of the image in tables  [default: file, image]"),
    click.option(
        "--types",
        metavar="NAME=TYPE",
        multiple=True,
        help="Type of a column of CSV: string, int, float, bool; repeatable  [default: by its values]",
    ),
    click.option("--id-field", metavar="NAME", help="Field that identifies the rows of a table."),
    click.option("--namespace", help="Stands for the source's path in ids, so that moving the source keeps them."),
    click.option("--split", metavar="NAME", help="Split of a Hugging Face dataset  [default: all of them]"),
    click.option("--subset", metavar="NAME", help="Subset (configuration) of a Hugging Face dataset."),
    journal_option,
)
"""Decorator that adds the sources and how they are read, as the argument `sources`."""


def read_pairs(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Read options of the form NAME=VALUE."""
    pairs = [text.partition("=") for text in given]
    if wrong := [text for text, (_, sign, value) in zip(given, pairs, strict=True) if not (sign and value)]:
        raise click.BadParameter(f"{wrong[0]!r} is not of the form {param.metavar}", ctx, param)
    return {name: value for name, _, value in pairs}


root_option = click.option(
    "--root",
    "roots",
    metavar="NAME=DIR",
    multiple=True,
    callback=read_pairs,
    help="Folder that pictures are shown from, by the namespace or the folder that was indexed; repeatable.",
)
