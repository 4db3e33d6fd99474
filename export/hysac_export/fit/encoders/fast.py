"""Encoders of fastembed: its ONNX files as they are, found by its registry or in a folder with the same files.

A picture whose resized sides differ by 3, 7, 11 … pixels is cropped one pixel beside where fastembed crops it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto

from hysac_export.fit.encoders.base import EncoderGraphs, ImageGraph, TextGraph
from hysac_export.fit.encoders.nodes import Nodes, pool, rank, run_text, width
from hysac_export.model.files import Pooling, read_json, read_pooling, read_tokenizer
from hysac_export.model.hub import fetch
from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.errors import EncoderError, MissingExtraError

_POOLINGS: Mapping[str, Pooling | None] = {
    "OnnxTextEmbedding": "cls",
    "CLIPOnnxEmbedding": None,
    "PooledEmbedding": "mean",
    "PooledNormalizedEmbedding": "mean",
}
"""How the classes of fastembed's registry pool; None: their graphs do it."""
_GRAPHS = ("model.onnx", "model_optimized.onnx", "onnx/model.onnx")
_DESCRIBED = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)
_TEXT, _VISION = "-text", "-vision"
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers


@dataclass(frozen=True)
class _Model:
    """A graph on disk; `pooling` is None where it gives one vector of a text, or where a folder has to say."""

    folder: Path
    file: str
    pooling: Pooling | None = None


def fast_graphs(model: str) -> EncoderGraphs:
    """Open a model: a name of fastembed's registry, or a folder.

    With a text model whose name ends in ``-text`` comes the model of pictures beside it whose name ends in ``-vision``.

    Raises:
        EncoderError: There is none, or it is of a kind that is not understood.
        MissingExtraError: fastembed is not installed, and its registry is needed.
    """
    text, image = _in_folders(model) if Path(model).expanduser().is_dir() else _in_registry(model)
    return EncoderGraphs(_text(text) if text else None, _image(image) if image else None)


def _in_folders(model: str) -> tuple[_Model | None, _Model | None]:
    folder = Path(model).expanduser().absolute()
    if not (folder / "tokenizer.json").is_file():
        return None, _Model(folder, _file(folder))
    partner = folder.with_name(folder.name.removesuffix(_TEXT) + _VISION)
    paired = folder.name.endswith(_TEXT) and partner.is_dir()
    return _Model(folder, _file(folder)), _Model(partner, _file(partner)) if paired else None


def _file(folder: Path) -> str:
    found = next((name for name in _GRAPHS if (folder / name).is_file()), None)
    if found is None:
        raise EncoderError(f"{folder} has no graph; expected one of {', '.join(_GRAPHS)}")
    return found


def _in_registry(model: str) -> tuple[_Model | None, _Model | None]:
    try:
        from fastembed import ImageEmbedding, TextEmbedding
        from fastembed.common.utils import define_cache_dir
    except ImportError as error:
        raise MissingExtraError("fastembed", "fastembed", f"finding {model!r}, which is no folder,") from error
    # The class says how a model pools, and no public function says the class.
    kinds = [
        (kind.__name__, entry) for kind in TextEmbedding.EMBEDDINGS_REGISTRY for entry in kind._list_supported_models()
    ]
    texts = {entry.model.casefold(): (kind, entry) for kind, entry in kinds}
    images = {entry["model"].casefold(): entry for entry in ImageEmbedding.list_supported_models()}
    name = model.casefold()
    partner = name.removesuffix(_TEXT) + _VISION if name.endswith(_TEXT) else name
    if name not in texts and name not in images:
        raise EncoderError(f"fastembed knows no {model!r}", hint="See TextEmbedding.list_supported_models()")
    cache = str(define_cache_dir(None))
    text = image = None
    if name in texts:
        kind, entry = texts[name]
        if kind not in _POOLINGS:
            raise EncoderError(f"{model} is a {kind} of fastembed; expected one of {', '.join(_POOLINGS)}")
        folder = _fetched(entry.sources.hf, [entry.model_file, *entry.additional_files], cache)
        text = _Model(folder, entry.model_file, _POOLINGS[kind])
    if partner in images:
        found = images[partner]
        folder = _fetched(found["sources"]["hf"], [found["model_file"], *found["additional_files"]], cache)
        image = _Model(folder, found["model_file"])
    return text, image


def _fetched(repository: str | None, files: list[str], cache: str) -> Path:
    if repository is None:
        raise EncoderError("fastembed has this model elsewhere than on a hub", hint="Download it and give its folder")
    return fetch(repository, partial(_needed, files), cache=cache)


def _needed(files: list[str], names: Collection[str]) -> list[str]:
    return [name for name in (*files, *_DESCRIBED) if name in names]


def _text(model: _Model) -> TextGraph:
    folder, where = model.folder, str(model.folder / model.file)
    config, settings = read_json(folder / "config.json"), read_json(folder / "tokenizer_config.json")
    limits = [settings.get(key) for key in ("model_max_length", "max_length")]
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit <= 2**15]
    if not known:
        raise EncoderError(f"{folder}/tokenizer_config.json names no model_max_length")
    tokenizer, spec = read_tokenizer(folder, config, min(known))
    nodes = Nodes(onnx.load(folder / model.file))
    pooling = folder / "1_Pooling" / "config.json"
    name = _output(nodes, pooled=model.pooling is None and not pooling.is_file())
    value = nodes.outputs[name]
    # Of axes that have a name in the graph the config tells the length.
    dim = width(value, int(config.get("hidden_size", 0)))
    if rank(value) not in (2, 3) or not dim:
        raise EncoderError(f"{where} does not say how large the vectors are that it gives")
    vector, which = run_text(nodes, spec.end_id, name, where)
    if rank(value) == 3:
        # A folder names no class of fastembed's.
        vector = pool(nodes, vector, which, model.pooling or read_pooling(pooling))
    return TextGraph(nodes.text_model(vector, dim), spec, tokenizer)


def _output(nodes: Nodes, *, pooled: bool) -> str:
    """Return the output that fastembed takes, the first; of several a single one `pooled`, where nothing else pools."""
    first: str = next(iter(nodes.outputs))
    vectors: list[str] = [name for name, value in nodes.outputs.items() if rank(value) == 2]
    return vectors[0] if pooled and rank(nodes.outputs[first]) == 3 and len(vectors) == 1 else first


def _image(model: _Model) -> ImageGraph:
    spec = _image_spec(model.folder / "preprocessor_config.json")
    nodes, where = Nodes(onnx.load(model.folder / model.file)), model.folder / model.file
    name, value = next(iter(nodes.outputs.items()))
    if len(nodes.inputs) != 1 or rank(value) != 2 or not width(value):
        found = f"{', '.join(nodes.inputs)} and gives {', '.join(nodes.outputs)}"
        raise EncoderError(f"{where} takes {found}; expected pixels, and first of all a vector of each picture")
    shades = nodes.add("Transpose", nodes.add("Cast", "pixels", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
    shades = nodes.add("Div", nodes.add("Sub", nodes.add("Div", shades, np.float32(255)), mean), std)
    vector = nodes.run({next(iter(nodes.inputs)): shades}, name)
    return ImageGraph(nodes.image_model(spec.size, vector, width(value)), spec)


def _image_spec(path: Path) -> ImageSpec:
    """Read how pictures are prepared, which has to be CLIP's way."""
    config = read_json(path)
    sizes = [config.get(name) for name in ("size", "crop_size")]
    # A number, or sides by their names.
    short, crop = ({*size.values()} if isinstance(size, dict) else {size} for size in sizes)
    steps = {
        name: config.get(f"do_{name}", name == "rescale") for name in ("resize", "center_crop", "rescale", "normalize")
    }
    clip = config.get("image_processor_type", "CLIPImageProcessor").startswith("CLIP")
    shortest = not isinstance(sizes[0], dict) or [*sizes[0]] == ["shortest_edge"]
    resampling = _RESAMPLING.get(config.get("resample", 3))
    factor = config.get("rescale_factor", 1 / 255)
    if not (
        clip
        and all(steps.values())
        and shortest
        and short == crop
        and len(crop) == 1
        and resampling
        and abs(factor * 255 - 1) < 1e-6
    ):
        expected = "the shorter side resized and the centre cut out to one size, values divided by 255 and normalised"
        raise EncoderError(f"{path} does not prepare pictures as CLIP does: expected {expected}")
    try:
        mean, std = (cast(Any, tuple(config[f"image_{name}"])) for name in ("mean", "std"))
        return ImageSpec(size=short.pop(), mean=mean, std=std, interpolation=cast(Any, resampling))
    except (KeyError, TypeError, ValueError) as error:  # ValidationError is a ValueError
        raise EncoderError(f"{path} does not say how pictures are prepared: {error}") from error
