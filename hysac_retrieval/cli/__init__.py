"""The command line: the group ``hysac`` and the script ``hysac-index``.

One file per command, loaded when it runs, so that ``hysac --help`` is instant. Exit codes: 0 done, 1 error, 2 usage,
3 finished with failed items.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from keyword import iskeyword
from typing import Any

import click

from hysac_retrieval import __version__
from hysac_retrieval.cli.common import keep_lines, reported

_COMMANDS = {
    "index": "Index images and texts into a collection.",
    "status": "Compare a collection with its sources.",
    "attach": "Add safe search to a collection of an application.",
    "detach": "Take away again what attach has added.",
    "search": "Search a collection by text, image, stored point or examples.",
    "explain": "Show the way of a query to the origin, and what entails it there.",
    "info": "Describe collections and models.",
    "demo": "Index the example gallery and search it safely.",
    "doctor": "Check the installation and say what mends it.",
    "train": "Train a model.",
    "export": "Turn a trained run into a model bundle.",
    "import": "Turn a published checkpoint into a model bundle.",
    "calibrate": "Compute the safety profile of a model.",
    "rescore": "Give a collection the scores of a new calibration.",
    "eval": "Evaluate a model on the test splits.",
    "serve": "Serve searches over HTTP.",
}
"""What each command does, here so that the list of commands loads none of them."""


def _module(command: str) -> str:
    """Module of a command; a name that Python keeps for itself has an underscore behind it."""
    return f"{__name__}.{command}_" if iskeyword(command) else f"{__name__}.{command}"


class _LazyGroup(click.Group):
    """Finds commands in the modules of this package; each exports ``command``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help = keep_lines(self.help)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if find_spec(_module(name)) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(_module(cmd_name)).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> object:
        with reported():
            return super().invoke(ctx)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hysac")
def main() -> None:
    r"""Safe search over images and text in Qdrant.

    Distance from the origin of a hyperbolic space says how unsafe something is; unsafe queries are answered with their
    safe counterparts.

    \b
    hysac demo
    hysac index photos/ --collection photos --location ./data
    hysac search "a man with a dog" --collection photos --location ./data
    """


def index_main() -> None:
    """Entry point of the script ``hysac-index``."""
    import_module(f"{__name__}.index").command.main(prog_name="hysac-index")
