"""CLIPs of open_clip, exported with torch: text and images."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import Lowercase, Normalizer, Replace, Strip
from tokenizers.normalizers import Sequence as NormalizerSequence

from hysac_export.bundle.onnx import ImageGraph as ImageModule
from hysac_export.bundle.onnx import TextGraph as TextModule
from hysac_export.bundle.onnx import traced
from hysac_export.config import CLIP_MEAN, CLIP_STD, ModelConfig, OpenClipConfig
from hysac_export.fit.encoders.base import EncoderGraphs, ImageGraph, TextGraph
from hysac_export.model.clip_tokenizer import describe_tokenizer
from hysac_export.model.files import read_json, read_tokenizer
from hysac_export.model.hub import fetch
from hysac_export.model.towers import describe, pretrained_towers, resolve, tokenizer_of
from hysac_retrieval.encoder.bundle import ImageSpec, TextSpec
from hysac_retrieval.errors import EncoderError

_CONFIG, _WEIGHTS = "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_HUB = "hf-hub:"
_DESCRIBED = re.compile(r"(.+\.json)/(.+)")
_REFUSED = ("hf_model_name", "embed_cls")
_SPACES: list[Normalizer] = [Replace(Regex(r"\s+"), " "), Strip()]
_CLEANING: Mapping[str, list[Normalizer]] = {
    "whitespace": _SPACES,
    "lower": [*_SPACES, Lowercase()],
    "canonicalize": [Replace("_", " "), Replace(Regex(r"[!-/:-@\[-`{-~]"), ""), Lowercase(), *_SPACES],
}
"""How open_clip cleans texts for tokenizers that are not CLIP's, by its names of the ways."""

_log = logging.getLogger(__name__)


def clip_graphs(model: str) -> EncoderGraphs:
    """Open a CLIP or a SigLIP: ``MODEL/PRETRAINED``, a folder with both, or ``hf-hub:owner/name``, which has both.

    MODEL is an architecture of open_clip, or a JSON file that describes one; PRETRAINED a tag of its, or a file.

    Raises:
        EncoderError: No weights are named, or there is no such folder.
        TrainingError: open_clip has no such architecture or weights, or they cannot be used.
    """
    config = _config(model)
    _announce(config)
    architecture, preprocess = describe(config)
    given = ModelConfig(open_clip=config)
    if architecture["text_cfg"].get("hf_tokenizer_name"):
        tokenizer, text = _foreign_tokenizer(config, architecture)
        image = _image_spec(config.name, architecture, preprocess)
        resolved = given.model_copy(update={"open_clip": config.model_copy(update={"architecture": architecture})})
    else:
        resolved = resolve(given)
        tokenizer = tokenizer_of(config, resolved)
        text = describe_tokenizer(tokenizer, resolved.text.vocab_size, resolved.text.context_length)
        own = resolved.image
        image = ImageSpec(size=own.size, mean=cast(Any, tuple(own.mean)), std=cast(Any, tuple(own.std)))
    towers: Any = pretrained_towers(config, resolved).eval().float()
    texts = torch.full((2, text.context_length), text.end_id)
    pixels = torch.zeros(2, image.size, image.size, 3, dtype=torch.uint8)
    return EncoderGraphs(
        TextGraph(traced(TextModule(towers).eval(), "tokens", texts, "vector"), text, tokenizer),
        ImageGraph(traced(ImageModule(towers, image.mean, image.std).eval(), "pixels", pixels, "vector"), image),
    )


def _foreign_tokenizer(config: OpenClipConfig, architecture: Mapping[str, Any]) -> tuple[Tokenizer, TextSpec]:
    """Return the tokenizer of a text tower, such as SigLIP's, that reads rows of one length, padding included."""
    text = architecture["text_cfg"]
    options = dict(text.get("tokenizer_kwargs") or {})
    clean = options.pop("clean", "whitespace")
    strange = [*options, *(key for key in _REFUSED if text.get(key))]
    if strange or clean not in _CLEANING or "multimodal_cfg" in architecture:
        why = ", ".join(strange) or f"texts cleaned by {clean!r}, or a decoder"
        raise EncoderError(f"the text tower of {config.name} has settings that are not understood: {why}")
    folder = Path(config.tokenizer).parent if config.tokenizer else fetch(text["hf_tokenizer_name"], _tokenizer_files)
    tokenizer, spec = read_tokenizer(folder, {}, int(text.get("context_length", 77)))
    pad = read_json(folder / "tokenizer_config.json").get("pad_token")
    number = tokenizer.token_to_id(str(pad["content"] if isinstance(pad, dict) else pad))
    if number is None:
        raise EncoderError(f"{folder}/tokenizer_config.json names no pad_token, with which this text tower reads texts")
    steps = [*_CLEANING[clean], *([] if tokenizer.normalizer is None else [tokenizer.normalizer])]
    tokenizer.normalizer = NormalizerSequence(steps)
    return tokenizer, spec.model_copy(update={"pad_id": number, "dynamic": False})


def _image_spec(name: str, architecture: Mapping[str, Any], preprocess: Mapping[str, Any]) -> ImageSpec:
    size = architecture["vision_cfg"].get("image_size", 224)
    sides = {*size} if isinstance(size, list | tuple) else {size}
    colours = {key: tuple(preprocess.get(key, own)) for key, own in (("mean", CLIP_MEAN), ("std", CLIP_STD))}
    try:
        (side,) = sides
        return ImageSpec(
            size=side,
            interpolation=preprocess.get("interpolation", "bicubic"),
            resize=preprocess.get("resize_mode", "shortest"),
            **cast(Any, colours),
        )
    except ValueError as error:  # of several sides as well, and ValidationError is one
        raise EncoderError(f"{name} prepares pictures in a way that is not understood: {error}") from error


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
    return [*weights, *(name for name in (_CONFIG,) if name in names), *_tokenizer_files(names)]


def _tokenizer_files(names: Collection[str]) -> list[str]:
    return [name for name in ("tokenizer.json", "tokenizer_config.json") if name in names]


def _announce(config: OpenClipConfig) -> None:
    """Say what open_clip will download."""
    tag = get_pretrained_cfg(config.name, str(config.pretrained))
    if tag:
        from huggingface_hub import constants

        source = f"{constants.ENDPOINT}/{tag['hf_hub']}" if tag.get("hf_hub") else tag.get("url")
        _log.info("%s/%s: weights from %s, unless they are in the cache", config.name, config.pretrained, source)
