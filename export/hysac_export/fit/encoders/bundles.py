"""A bundle as an encoder: its points, of which a head takes the directions."""

from __future__ import annotations

import logging
from pathlib import Path

from onnx import ModelProto, TensorProto, compose, helper
from tokenizers import Tokenizer

from hysac_export.bundle.graphs import load_graph
from hysac_export.fit.encoders.base import EncoderGraphs, ImageGraph, TextGraph
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.graphs import expect_listed
from hysac_retrieval.errors import EncoderError

_PREFIX = "bundle."

_log = logging.getLogger(__name__)


def bundle_graphs(model: str) -> EncoderGraphs:
    """Open a bundle, as `Bundle.load` finds it.

    Raises:
        BundleError: There is none, or it is damaged.
        EncoderError: It has no encoder, only heads for the vectors of another.
    """
    if model.count("/") == 1 and not Path(model).expanduser().is_dir():
        from huggingface_hub import constants

        _log.info("%s: from %s/%s, unless it is in the cache", model, constants.ENDPOINT, model)
    bundle = Bundle.load(model)
    text, image = bundle.manifest.text, bundle.manifest.image
    if text is None and image is None:
        raise EncoderError(f"the bundle {model} has no encoder", hint="Give the encoder that its heads were made for")
    tokenizer = Tokenizer.from_file(str(bundle.file(text.tokenizer))) if text else None
    return EncoderGraphs(
        TextGraph(_graph(bundle, text.file), text, tokenizer) if text and tokenizer else None,
        ImageGraph(_graph(bundle, image.file), image) if image else None,
    )


def _graph(bundle: Bundle, file: str) -> ModelProto:
    expect_listed(bundle.file(file), bundle.manifest.files)
    # A head behind it has names of its own, the same ones if the bundle has been fitted.
    proto = compose.add_prefix(load_graph(bundle.file(file)), _PREFIX, rename_inputs=False)
    graph, dim = proto.graph, bundle.manifest.dim
    graph.node.append(helper.make_node("Identity", [f"{_PREFIX}point"], ["vector"]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", dim]))
    return proto
