"""``hysac serve``: a collection over HTTP."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from hysac_retrieval.cli.common import Command
from hysac_retrieval.cli.options import Place, model_option, place_options, read_pairs, root_option
from hysac_retrieval.errors import MissingExtraError, SettingsError


def require_serve(purpose: str) -> None:
    """Raise `MissingExtraError` if the serve extra is not installed."""
    for package in ("fastapi", "uvicorn", "prometheus_client", "multipart"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve", purpose)


@click.command("serve", cls=Command)
@place_options()
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes; for --url only.")
@click.option("--keys", metavar="FILE", type=click.Path(path_type=Path), help="Keys, made by `hysac keys`.")
@click.option(
    "--anonymous/--no-anonymous",
    default=None,
    help="Whether who has no key may search, safely  [default: only where there are neither keys nor a proxy]",
)
@click.option(
    "--audit",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Audit log. Without one nothing unsafe is answered, and no review is taken.",
)
@root_option
@click.option(
    "--host-name", "hosts", multiple=True, metavar="NAME", help="Name that it may be asked for by; repeatable."
)
@click.option("--proxy", metavar="ADDRESS", help="Address of a proxy that names its users (X-Forwarded-User, -Groups).")
@click.option(
    "--limit",
    "limits",
    metavar="NAME=VALUE",
    multiple=True,
    callback=read_pairs,
    help="A limit, such as rate=20; repeatable.",
)
@click.option("--two-people", is_flag=True, help="A decision that a point is safe needs a second person.")
@click.option("--trust-reviews", is_flag=True, help="Safe searches find what was reviewed as safe, whatever its score.")
@click.option("--force", is_flag=True, help="Let others search without a key.")
def command(
    place: Place,
    model: str,
    host: str,
    port: int,
    workers: int,
    keys: Path | None,
    anonymous: bool | None,
    audit: Path | None,
    roots: dict[str, str],
    hosts: tuple[str, ...],
    proxy: str | None,
    limits: dict[str, str],
    two_people: bool,
    trust_reviews: bool,
    force: bool,
) -> None:
    """Serve a collection over HTTP: search, thumbnails, reviews, metrics.

    \b
    hysac keys make --file keys.json --name ann --scope search --scope search:unsafe
    hysac serve --collection photos --location ./data --keys keys.json --audit audit.jsonl
    curl -H "Authorization: Bearer $KEY" http://localhost:8080/v1/search --json '{"text": "a dog"}'
    """
    require_serve("hysac serve")
    from hysac_retrieval.service.serving import expect_guarded, is_loopback, serve
    from hysac_retrieval.service.settings import LOOPBACK

    local = is_loopback(host)
    settings = _settings(
        {
            "keys": keys,
            "anonymous": anonymous,
            "audit": audit,
            "roots": roots,
            "hosts": [*(LOOPBACK if local or hosts else ()), *hosts],
            "proxy": None if proxy is None else {"address": proxy},
            "limits": limits,
            "two_people": two_people,
            "secure_cookies": not local or bool(hosts),
        }
    )
    expect_guarded(host, settings, force=force)
    shown = f"[{host}]" if ":" in host else host

    def opened() -> None:
        click.echo(f"Serving {place.collection} at http://{shown}:{port}")

    serve(
        place.collection,
        dict(place.connection()),
        model,
        settings,
        host=host,
        port=port,
        workers=workers,
        trust_reviews=trust_reviews,
        on_open=opened,
    )


def _settings(given: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from hysac_retrieval.service.settings import ServiceSettings

    try:
        return ServiceSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SettingsError(f"{' '.join(map(str, first['loc']))}: {first['msg']}") from None
