"""``hysac keys``: keys of a service, and its audit log."""

from __future__ import annotations

from pathlib import Path

import click

from hysac_retrieval.cli.common import Command, print_json
from hysac_retrieval.cli.options import json_option
from hysac_retrieval.cli.serve import require_serve

_file = click.option(
    "--file",
    "path",
    default="keys.json",
    show_default=True,
    envvar="HYSAC_KEYS",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File of keys.",
)
_identity = click.argument("identity", metavar="ID")


@click.group("keys")
def command() -> None:
    """Make, list, rotate and revoke the keys of a service.

    A key is shown once, when it is made; the file holds its hash. A service that runs follows the file.

    \b
    hysac keys make --name ann --scope search --scope search:unsafe
    hysac keys revoke 3fa4c2d1
    """


@command.command("make", cls=Command)
@_file
@click.option("--name", required=True, help="Whose it is, for people.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["search", "search:unsafe", "review", "write", "admin"]),
    help="What it may do; repeatable.",
)
@json_option
def make(path: Path, name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a key and print it."""
    require_serve("hysac keys")
    from hysac_retrieval.service.keys import make_key

    key, text = make_key(path, name, scopes)
    _show(key.id, text, as_json)


@command.command("rotate", cls=Command)
@_file
@_identity
@click.option("--keep-hours", default=0.0, type=click.FloatRange(0), help="How long the earlier secret still counts.")
@json_option
def rotate(path: Path, identity: str, keep_hours: float, as_json: bool) -> None:
    """Give a key another secret, and print it. Sessions that were begun with it end."""
    require_serve("hysac keys")
    from hysac_retrieval.service.keys import rotate_key

    key, text = rotate_key(path, identity, keep_seconds=keep_hours * 3600)
    _show(key.id, text, as_json)


@command.command("revoke", cls=Command)
@_file
@_identity
@json_option
def revoke(path: Path, identity: str, as_json: bool) -> None:
    """Have a key count no more, from the next request on."""
    require_serve("hysac keys")
    from hysac_retrieval.service.keys import revoke_key

    revoked = revoke_key(path, identity).id
    if as_json:
        print_json({"revoked": revoked})
    else:
        click.echo(f"Revoked {revoked}")


@command.command("list", cls=Command)
@_file
@json_option
def list_(path: Path, as_json: bool) -> None:
    """List keys: id, scopes, when they were made and revoked, name."""
    require_serve("hysac keys")
    from hysac_retrieval.service.keys import read_keys

    keys = read_keys(path).keys
    if as_json:
        print_json(
            [
                {"id": key.id, "name": key.name, "scopes": sorted(key.scopes), "made": key.made, "revoked": key.revoked}
                for key in keys
            ]
        )
        return
    for key in keys:
        state = f"revoked {key.revoked}" if key.revoked else f"made {key.made}"
        click.echo(f"{key.id}  {','.join(sorted(key.scopes)):<28}  {state}  {key.name}")


@command.command("check-log", cls=Command)
@click.argument("log", type=click.Path(path_type=Path))
@json_option
def check_log(log: Path, as_json: bool) -> None:
    """Follow the chain of an audit log: its lines, its last hash, and the first line that was changed."""
    require_serve("hysac keys")
    from hysac_retrieval.service.log import check_log as check

    found = check(log)
    if as_json:
        print_json({"lines": found.lines, "broken": found.broken, "last": found.last})
    else:
        click.echo(f"{found.lines} lines, last hash {found.last}")
        if found.broken is not None:
            click.echo(f"The chain is broken at line {found.broken}: it, or what was before it, was changed", err=True)
    if found.broken is not None:
        click.get_current_context().exit(1)


def _show(identity: str, text: str, as_json: bool) -> None:
    if as_json:
        print_json({"id": identity, "key": text})
    else:
        click.echo(f"{text}\nIts id is {identity}. It is not shown again.")
