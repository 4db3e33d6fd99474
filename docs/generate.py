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

Exit codes: 0 done, 1 error, 2 usage, 3 finished but some items failed (they are listed; the rest is done), 141 whoever
read the output has gone. `--json` prints the result as JSON, and an error as `{"error": {"type": …, "message": …,
"hint": …}}`, both on stdout. Control characters of captions, names and messages are printed as escapes. This page is
written by `python docs/generate.py`.
"""


def command_line() -> str:
    """Return the page on the command line: what each ``--help`` prints in a terminal of 80 columns."""
    group = click.Context(main, info_name="hysac", terminal_width=WIDTH, **main.context_settings)
    parts = [INTRODUCTION, f"```text\n{main.get_help(group)}\n```\n"]
    for name in main.list_commands(group):
        command = main.get_command(group, name)
        assert command is not None
        context = click.Context(command, parent=group, info_name=name, **command.context_settings)
        parts.append(f"## hysac {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(command_line(), encoding="utf-8")
