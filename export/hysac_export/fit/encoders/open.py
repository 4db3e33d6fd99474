"""The encoder that a spec names."""

from __future__ import annotations

from typing import Unpack

from hysac_export.fit.encoders.base import KINDS, EncoderGraphs, VectorEncoder
from hysac_export.fit.encoders.bundles import bundle_graphs
from hysac_export.fit.encoders.fast import fast_graphs
from hysac_export.fit.encoders.running import GraphEncoder
from hysac_export.fit.encoders.sentence import sentence_graphs
from hysac_export.fit.encoders.service import FunctionEncoder
from hysac_retrieval.encoder.devices import DeviceKeywords
from hysac_retrieval.errors import BundleNotFoundError, EncoderError, MissingExtraError


def open_encoder(spec: str, **device: Unpack[DeviceKeywords]) -> VectorEncoder:
    """Open an encoder; what would be downloaded for it is logged before.

    Args:
        spec: One of `KINDS`.
        **device: Device and threads of what runs here, see `DeviceKeywords`.

    Raises:
        EncoderError: The spec is of no kind that is known, or there is no such encoder, or it cannot be used.
        BundleError: The bundle is damaged.
        TrainingError: open_clip has no such model.
        MissingExtraError: A package that its kind needs is not installed.
    """
    kind, _, name = spec.partition(":")
    makers = {
        "open_clip": _clip_graphs,
        "fastembed": fast_graphs,
        "sentence-transformers": sentence_graphs,
        "hysac": bundle_graphs,
    }
    if kind in makers and name:
        return GraphEncoder(spec, makers[kind](name), **device)
    if kind.replace(".", "").isidentifier() and name.replace(".", "").isidentifier():
        return FunctionEncoder(spec)
    try:
        if not spec:
            raise BundleNotFoundError("it is empty")
        return GraphEncoder(spec, bundle_graphs(spec), **device)
    except BundleNotFoundError as error:
        expected = "; ".join(f"{form} ({what})" for form, what in KINDS.items())
        raise EncoderError(f"{spec!r} names no encoder ({error.message}); expected one of {expected}") from error


def _clip_graphs(model: str) -> EncoderGraphs:
    try:
        from hysac_export.fit.encoders.clip import clip_graphs
    except ImportError as error:
        raise MissingExtraError(error.name or "open_clip_torch", "train", f"open_clip:{model}") from error
    return clip_graphs(model)
