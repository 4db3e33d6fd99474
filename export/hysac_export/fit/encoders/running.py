"""Encoders by their graphs: what is fitted to is computed by the very graphs that the bundle will carry."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from hysac_export.bundle.graphs import save_graph
from hysac_export.data.split import Progress
from hysac_export.fit.encoders.base import EncoderGraphs, Vectors, no_modality, unit
from hysac_retrieval.encoder.devices import DeviceKeywords, DeviceOptions
from hysac_retrieval.encoder.pictures import ImageSource
from hysac_retrieval.encoder.preprocess import load_image, preprocess
from hysac_retrieval.encoder.tokenization import TextTokenizer
from hysac_retrieval.errors import EncoderError
from hysac_retrieval.types import Modality

_BATCH = 64


class GraphEncoder:
    """A `VectorEncoder` that runs its graphs in ONNX Runtime.

    Raises:
        EncoderError: Its vectors of texts and of pictures differ in size.
        BundleFormatError: The tokenizer does not fit its description.
    """

    def __init__(self, name: str, graphs: EncoderGraphs, **device: Unpack[DeviceKeywords]) -> None:
        """Wrap graphs, which are loaded on first use."""
        self.name = name
        self.modalities = graphs.modalities
        self.pixels = None if graphs.image is None else graphs.image.spec
        sizes = {graph.proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value for graph in _all(graphs)}
        if len(sizes) > 1:
            raise EncoderError(f"{name} gives vectors of sizes {sorted(sizes)} for texts and pictures, expected one")
        self.dim: int = sizes.pop()
        self._graphs = graphs
        self._device = DeviceOptions(**device)
        self._sessions: dict[Modality, Any] = {}
        text = graphs.text
        self._tokenizer = None if text is None else TextTokenizer(text.tokenizer, text.spec)

    def text(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """See `VectorEncoder.text`."""
        if self._graphs.text is None or self._tokenizer is None:
            raise no_modality(self.name, "text")
        spec, vectors = self._graphs.text.spec, np.empty((len(texts), self.dim), np.float32)
        tokens = self._tokenizer(texts)
        lengths = spec.context_length - (tokens != spec.pad_id)[:, ::-1].argmax(axis=1)
        order = np.argsort(lengths, kind="stable")  # texts of like length together, so that little is padded
        for start in range(0, len(texts), _BATCH):
            rows = order[start : start + _BATCH]
            length = lengths[rows[-1]] if spec.dynamic else spec.context_length
            vectors[rows] = self._run("text", self._graphs.text.proto, tokens[rows, :length])
            if progress:
                progress(len(rows))
        return unit(vectors, self.name)

    def image(self, pictures: Sequence[ImageSource], progress: Progress | None = None) -> Vectors:
        """See `VectorEncoder.image`."""
        if self._graphs.image is None:
            raise no_modality(self.name, "image")
        spec, vectors = self._graphs.image.spec, np.empty((len(pictures), self.dim), np.float32)
        for start in range(0, len(pictures), _BATCH):
            part = pictures[start : start + _BATCH]
            pixels = np.stack([preprocess(load_image(picture), spec) for picture in part])
            vectors[start : start + len(part)] = self._run("image", self._graphs.image.proto, pixels)
            if progress:
                progress(len(part))
        return unit(vectors, self.name)

    def graphs(self) -> EncoderGraphs:
        """See `VectorEncoder.graphs`."""
        return self._graphs

    def _run(self, modality: Modality, proto: ModelProto, batch: NDArray[Any]) -> NDArray[np.floating]:
        if modality not in self._sessions:
            self._sessions[modality] = self._load(proto)
        session = self._sessions[modality]
        try:
            found: NDArray[np.floating] = session.run(["vector"], {session.get_inputs()[0].name: batch})[0]
        except Exception as error:  # the C++ side has no usable hierarchy
            raise EncoderError(f"the {modality} graph of {self.name} cannot be run: {error}") from error
        if found.shape != (len(batch), self.dim):
            raise EncoderError(
                f"the {modality} graph of {self.name} turned a batch of {len(batch)} into vectors of shape "
                f"{found.shape}, expected {(len(batch), self.dim)}"
            )
        return found

    def _load(self, proto: ModelProto) -> Any:
        # By way of a file, since a graph of more than 2 GB can be loaded from nothing else.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            copy = ModelProto()
            copy.CopyFrom(proto)  # saving may move its weights out
            save_graph(copy, path := Path(folder) / "encoder.onnx")
            return self._device.session(path)


def _all(graphs: EncoderGraphs) -> list[Any]:
    return [graph for graph in (graphs.text, graphs.image) if graph is not None]
