"""CLIPs of open_clip, exported with torch: text and images."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from hysac_export.bundle.onnx import ImageGraph as ImageModule
from hysac_export.bundle.onnx import TextGraph as TextModule
from hysac_export.bundle.onnx import traced
from hysac_export.config import ModelConfig, OpenClipConfig
from hysac_export.fit.encoders.base import EncoderGraphs, ImageGraph, TextGraph
from hysac_export.model.clip_tokenizer import describe_tokenizer
from hysac_export.model.hub import fetch
from hysac_export.model.towers import pretrained_towers, resolve, tokenizer_of
from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.errors import EncoderError

_CONFIG, _WEIGHTS = "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_HUB = "hf-hub:"
_DESCRIBED = re.compile(r"(.+\.json)/(.+)")

_log = logging.getLogger(__name__)


def clip_graphs(model: str) -> EncoderGraphs:
    """Open a CLIP: ``MODEL/PRETRAINED``, a folder with a config and weights, or ``hf-hub:owner/name``, which has such.

    MODEL is an architecture of open_clip, or a JSON file that describes one; PRETRAINED a tag of its, or a file.

    Raises:
        EncoderError: No weights are named, or there is no such folder.
        TrainingError: open_clip has no such architecture or weights, or they cannot be used.
    """
    config = _config(model)
    _announce(config)
    given = ModelConfig(open_clip=config)
    resolved = resolve(given)
    towers: Any = pretrained_towers(config, resolved).eval().float()
    tokenizer = tokenizer_of(config, resolved)
    text = describe_tokenizer(tokenizer, resolved.text.vocab_size, resolved.text.context_length)
    size, mean, std = resolved.image.size, resolved.image.mean, resolved.image.std
    image = ImageSpec(size=size, mean=cast(Any, tuple(mean)), std=cast(Any, tuple(std)))
    texts = torch.full((2, text.context_length), text.end_id)
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    return EncoderGraphs(
        TextGraph(traced(TextModule(towers).eval(), "tokens", texts, "vector"), text, tokenizer),
        ImageGraph(traced(ImageModule(towers, mean, std).eval(), "pixels", pixels, "vector"), image),
    )


def _config(model: str) -> OpenClipConfig:
    folder = Path(model).expanduser()
    if model.startswith(_HUB):
        folder = fetch(model.removeprefix(_HUB), _needed)
    if folder.is_dir():
        weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
        if weights is None or not (folder / _CONFIG).is_file():
            raise EncoderError(f"{folder} has no {_CONFIG}, or none of {', '.join(_WEIGHTS)}")
        own = folder / "tokenizer.json"
        name, pretrained, tokenizer = str(folder / _CONFIG), str(weights), str(own) if own.is_file() else None
        return OpenClipConfig(name=name, pretrained=pretrained, tokenizer=tokenizer)
    described = _DESCRIBED.fullmatch(model)
    name, _, pretrained = (described[1], "", described[2]) if described else model.partition("/")
    if not pretrained:
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none"
        raise EncoderError(f"open_clip:{model} names no weights; of {name} open_clip has: {tags}")
    return OpenClipConfig(name=name, pretrained=pretrained)


def _needed(names: Collection[str]) -> list[str]:
    weights = [name for name in _WEIGHTS if name in names][:1]
    return [*weights, *(name for name in (_CONFIG, "tokenizer.json") if name in names)]


def _announce(config: OpenClipConfig) -> None:
    """Say what open_clip will download."""
    tag = get_pretrained_cfg(config.name, str(config.pretrained))
    if tag:
        from huggingface_hub import constants

        source = f"{constants.ENDPOINT}/{tag['hf_hub']}" if tag.get("hf_hub") else tag.get("url")
        _log.info("%s/%s: weights from %s, unless they are in the cache", config.name, config.pretrained, source)
