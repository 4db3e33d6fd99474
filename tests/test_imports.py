from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hysac_retrieval

HEAVY = ("torch", "onnxruntime", "open_clip", "datasets", "transformers")


def loaded_by(statement: str) -> set[str]:
    # Where fastembed is installed, qdrant-client loads it, and ONNX Runtime with it, for reasons of its own.
    script = f"import sys\nsys.modules['fastembed'] = None\n{statement}\nprint(*sorted(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_the_package_imports_next_to_nothing() -> None:
    loaded = loaded_by("import hysac_retrieval")
    assert "hysac_retrieval" in loaded
    assert not loaded & {*HEAVY, "numpy", "qdrant_client", "qdrant_edge", "pydantic", "PIL", "huggingface_hub"}


def test_using_every_public_name_imports_no_framework() -> None:
    loaded = loaded_by("import hysac_retrieval\nfor name in hysac_retrieval.__all__: getattr(hysac_retrieval, name)")
    assert {"hysac_retrieval.search.blocking", "qdrant_client"} <= loaded
    # qdrant-client imports fastembed, and that ONNX Runtime, wherever it is installed.
    assert not (loaded - loaded_by("import qdrant_client")) & set(HEAVY)


def test_public_names_are_sorted_and_there() -> None:
    assert hysac_retrieval.__all__ == sorted(hysac_retrieval.__all__)
    assert set(hysac_retrieval.__all__) <= set(dir(hysac_retrieval))
    for name in hysac_retrieval.__all__:
        assert getattr(hysac_retrieval, name) is not None
    assert hysac_retrieval.lorentz.__name__ == "hysac_retrieval.lorentz"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hysac_retrieval.nothing


@pytest.mark.slow
def test_commands_import_what_trains_and_encodes_only_when_they_run() -> None:
    names = " ".join(path.stem for path in (Path(hysac_retrieval.__file__).parent / "cli").glob("[a-z]*.py"))
    loaded = loaded_by(
        f"import importlib\nfor name in {names!r}.split(): importlib.import_module('hysac_retrieval.cli.' + name)"
    )
    assert {"hysac_retrieval.cli.train", "hysac_retrieval.cli.search"} <= loaded
    assert not loaded & {*HEAVY, "hysac_export"}
