"""Write the pages of the site that are made from code: ``docs/cli.md``, from the commands.

python docs/generate.py
"""

from __future__ import annotations

from pathlib import Path

import click

from hysac_retrieval.cli import main

DOCS = Path(__file__).parent
WIDTH = 78
"""Columns that click uses in a terminal of 80."""
INTRODUCTION = """# Command line

What `hysac --help` and the `--help` of each command print. `hysac-index` is the same command as `hysac index`.

Exit codes: 0 done, 1 error, 2 usage, 3 finished but some items failed (they are listed; the rest is done). `--json`
prints the result as JSON, and an error as `{"error": {"type": …, "message": …, "hint": …}}`, both on stdout. This page
is written by `python docs/generate.py`.
"""


def help_of(command: click.Command, name: str) -> str:
    """Return what ``name --help`` prints in a terminal of 80 columns."""
    context = click.Context(command, info_name=name, terminal_width=WIDTH, **main.context_settings)
    return command.get_help(context)


def command_line() -> str:
    """Return the page on the command line."""
    parts = [INTRODUCTION, f"```text\n{help_of(main, 'hysac')}\n```\n"]
    for name in main.list_commands(click.Context(main)):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        parts.append(f"## hysac {name}\n\n```text\n{help_of(command, f'hysac {name}')}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(command_line(), encoding="utf-8")
