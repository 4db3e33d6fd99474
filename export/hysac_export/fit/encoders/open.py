"""The encoder that a spec names."""

from __future__ import annotations

from typing import Unpack

from hysac_export.fit.encoders.base import VectorEncoder
from hysac_export.fit.encoders.running import GraphEncoder
from hysac_export.fit.encoders.sentence import sentence_graphs
from hysac_retrieval.encoder.devices import DeviceKeywords
from hysac_retrieval.errors import EncoderError


def open_encoder(spec: str, **device: Unpack[DeviceKeywords]) -> VectorEncoder:
    """Open an encoder.

    Args:
        spec: ``sentence-transformers:NAME`` or a folder.
        **device: Device and threads, see `DeviceKeywords`.

    Raises:
        EncoderError: The spec is of no kind that is known, or there is no such encoder.
        MissingExtraError: A package that its kind needs is not installed.
    """
    kind, _, name = spec.partition(":")
    if kind == "sentence-transformers" and name:
        return GraphEncoder(spec, sentence_graphs(name), **device)
    raise EncoderError(f"{spec!r} names no encoder; expected sentence-transformers:NAME|FOLDER")
