"""Write the pages of the site that are made from code.

``docs/cli.md`` is made from the commands, ``docs/curl.md`` from the OpenAPI document of the service.

    python docs/generate.py
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hysac_retrieval import Index, SafeSearch
from hysac_retrieval.cli import main
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.service import create_app

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

CURL = """# Service by curl

Each route of the [service](service.md) with the examples of its OpenAPI document (`/openapi.json`), from which this
page is written by `python docs/generate.py`. The commands want a key with the scopes of the route, and an id that is
stored:

```bash
URL=http://127.0.0.1:8080
KEY=hysac_…
```
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


def curl() -> str:
    """Return the page on the service by curl: its routes in order, those that remove something last."""
    safety = Bundle.load("hysac-mini").manifest.safety
    with Index.create("page", dim=2, curvature=1.0, safety=safety, location=":memory:") as index:
        document = create_app(SafeSearch(index, None)).openapi()
    routes = [
        (method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    parts = [CURL]
    for method, path, operation in sorted(routes, key=lambda route: route[0] == "delete"):
        if commands := curl_commands(document, method, path, operation):
            said, block = operation["description"].replace("``", "`"), "\n".join(commands)
            parts.append(f"## {method.upper()} {path}\n\n{said}\n\n```bash\n{block}\n```\n")
    return "\n".join(parts)


def curl_commands(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> list[str]:
    """Return a command for each example of an operation; none where its body has no example."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["schema"]["examples"][0])
    command = f'curl --fail-with-body "$URL{path}" -H "Authorization: Bearer $KEY"'
    if method not in ("get", "post"):
        command += f" -X {method.upper()}"
    kinds = operation["responses"].get("200", {}).get("content", {})
    if picture := next((kind.partition("/")[2] for kind in kinds if kind.startswith("image/")), None):
        command += f" --output thumbnail.{picture}"
    if "requestBody" not in operation:
        return [command]
    ((media, content),) = operation["requestBody"]["content"].items()
    schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    if media == "multipart/form-data":
        return [f"{command} -F {name}=@picture.webp" for name in schema["required"]]
    return [f"{command} \\\n  --json {shlex.quote(json.dumps(example))}" for example in schema.get("examples", ())]


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(command_line(), encoding="utf-8")
    (DOCS / "curl.md").write_text(curl(), encoding="utf-8")
