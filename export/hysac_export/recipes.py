"""Training configs as files: YAML, TOML or JSON, each of which may extend another; some come with the package."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hysac_retrieval.errors import TrainingError


def read_recipe(source: str | Path, inner: tuple[Path, ...] = ()) -> tuple[Path, dict[str, Any]]:
    """The path and the settings of a config with all that it extends; `inner` are the files that extend it."""
    path = bundled_configs().get(str(source), Path(source))
    try:
        text = path.read_text(encoding="utf-8")
        # Of a run: JSON is not quite YAML, to which 1e-12 is a text.
        read: Any = {".toml": tomllib.loads, ".json": json.loads}.get(path.suffix, yaml.safe_load)
        values: Any = read(text) or {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        names = ", ".join(bundled_configs())
        raise TrainingError(f"cannot read the config {str(source)!r} (a file, or one of {names}): {error}") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path} holds {type(values).__name__}, expected a table of settings")
    base = values.pop("extends", None)
    if base is None:
        return path, values
    if not isinstance(base, str):
        raise TrainingError(f"{path} extends {base!r}; expected one name of a bundled config, or of a file beside it")
    if path in inner:
        hint = f"Leave `extends` out of one of {', '.join(map(str, inner))}"
        raise TrainingError(f"{path} extends itself", hint=hint)
    _, under = read_recipe(base if base in bundled_configs() else path.parent / base, (*inner, path))
    return path, _merged(under, values)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two tables in one, table by table; the second wins."""
    both = {
        key: _merged(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
        for key, value in over.items()
    }
    return under | both


def bundled_configs() -> dict[str, Path]:
    """Names and paths of the configs that come with the package."""
    folder = Path(str(resources.files("hysac_export"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
