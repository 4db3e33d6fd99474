"""Command line: the group ``hysac``, and the script ``hysac-index``, which is ``hysac index``.

One file per command, loaded when it runs, so that ``hysac --help`` is instant. Exit codes: 0 done, 1 error, 2 usage,
3 finished with failed items.
"""

from __future__ import annotations

import sys
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from hysac_retrieval import __version__
from hysac_retrieval.cli.terminal import streams

_COMMANDS = {
    "index": "Index images and texts into a collection.",
    "status": "Compare a collection with its sources.",
    "attach": "Add safe search to a collection of an application.",
    "detach": "Take away what attach has added.",
    "search": "Search a collection by text, image, stored point or examples.",
    "explain": "Show the path of a query to the origin, and what entails it there.",
    "info": "Describe collections and models.",
    "serve": "Serve a collection over HTTP.",
    "report": "Draw a collection into one HTML file.",
    "keys": "Make, list, rotate and revoke the keys of a service.",
    "demo": "Index the example gallery and search it safely.",
    "doctor": "Check the installation and say how to repair it.",
    "train": "Train a model.",
    "export": "Turn a trained run into a model bundle.",
    "import": "Turn a published checkpoint into a model bundle.",
    "calibrate": "Compute the safety profile of a model.",
    "fit": "Fit a safety head to an encoder, from labelled examples.",
    "label": "Label texts and pictures by hand, the most telling first.",
    "rescore": "Give a collection the scores of a new calibration.",
    "eval": "Evaluate a model on the test splits.",
}
"""Purpose of each command; it stands here so that listing the commands loads none of them."""

_PARTS_OF_INDEX = ("attach", "detach", "rescore")
"""Commands that may also be given as ``hysac index attach`` and so on. A source of that name is ``./attach``."""


class _LazyGroup(click.Group):
    """Group that finds commands in the modules of this package; each exports ``command``."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        with streams():
            return super().main(*arguments, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = f"{__name__}.{cmd_name}_" if iskeyword(cmd_name) else f"{__name__}.{cmd_name}"
        command: click.Command = import_module(module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        is_part = args[0] == "index" and args[1:2] and args[1] in _PARTS_OF_INDEX
        return super().resolve_command(ctx, args[1:] if is_part else args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hysac")
def main() -> None:
    """Safe search over images and text in Qdrant.

    Distance from the origin of a hyperbolic space says how unsafe something is; unsafe queries are answered with their
    safe counterparts.

    \b
    hysac demo
    hysac index photos/ --collection photos --location ./data
    hysac search "a man with a dog" --collection photos --location ./data
    """


def index_main() -> None:
    """Run the script ``hysac-index``: ``hysac index`` with its arguments."""
    main(["index", *sys.argv[1:]], prog_name="hysac")
