"""The two towers of a model: small ones, or any of open_clip's with the weights that it has for them.

Names in open_clip are looked up once, when a run begins, and written into the run's config (`resolve`): a run folder is
read without a registry, a network, or the weights that it started from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from open_clip.factory import get_model_config, load_checkpoint
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from tokenizers import Tokenizer
from torch import nn

from hysac_export.config import CLIP_MEAN, CLIP_STD, ImageTower, ModelConfig, OpenClipConfig, TextTower
from hysac_export.model.clip_tokenizer import VOCAB_SIZE, read_tokenizer
from hysac_export.model.text_tower import resolved
from hysac_retrieval.errors import TrainingError

_FOREIGN = ("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs", "embed_cls")
"""Settings of text towers that do not read CLIP's tokens, or do not pool at the end token."""


def build_towers(config: ModelConfig) -> nn.Module:
    """Both towers with random weights: a module with ``visual`` and ``encode_text``, and no logit scale.

    With `config.text.pretrained` the text tower is elsewhere, and this is the image tower alone.
    """
    clip = _own(config) if config.open_clip is None else _open_clip(config.open_clip)
    if config.text.pretrained:
        for part in ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"):
            delattr(clip, part)
    return _without_scale(clip)


def pretrained_towers(config: OpenClipConfig, resolved: ModelConfig) -> nn.Module:
    """Both towers with the weights that `config` names, maybe downloaded; `resolved` is what `resolve` returned.

    `TrainingError`: There are no such weights, or they do not fit.
    """
    if resolved.open_clip is None:
        raise TrainingError("the config has no model.open_clip; there are no weights to load")
    path = None if config.pretrained is None else _weights(config)  # first, for it may be misspelt
    clip = _open_clip(resolved.open_clip)
    if path is not None:
        try:
            load_checkpoint(clip, str(path))  # never unpickles: weights_only is open_clip's default
        except Exception as error:  # torch and safetensors let out whatever they trip over in a wrong file
            message = f"the weights {config.pretrained!r} cannot be loaded into open_clip's {config.name}: {error}"
            raise TrainingError(message, hint="Name in model.open_clip.name what they were trained as") from error
    return _without_scale(clip)


def resolve(config: ModelConfig) -> ModelConfig:
    """Replace names in a config by architecture, sizes, and normalisation of pixels; paths shrink to file names.

    `TrainingError`: open_clip has no such architecture or weights, or HySAC cannot be built on them.
    """
    given = config.open_clip
    if config.text.pretrained and config.text.described is None:
        return config.model_copy(update={"text": resolved(config.text)})
    if given is None or given.architecture is not None:
        return config
    architecture, preprocess = describe(given)
    image, text = architecture["vision_cfg"], architecture["text_cfg"]
    _refuse(given.name, architecture, preprocess)
    size = image.get("image_size", 224)
    if isinstance(size, (list, tuple)):
        if len(set(size)) > 1:
            raise TrainingError(f"{given.name} takes pictures of {size} pixels; only square ones are supported")
        size = size[0]
    layers, patch = image.get("layers", 12), image.get("patch_size", size)
    transformer = not image.get("timm_model_name") and isinstance(layers, int)
    shape = {"patch": patch, "width": image.get("width", 768), "layers": layers} if transformer else {"patch": size}
    vision = ImageTower(
        size=size,
        **(shape if size % shape["patch"] == 0 else shape | {"patch": size}),
        head_width=image.get("head_width", 64),
        head_mlp=config.image.head_mlp,
        mean=preprocess.get("mean", CLIP_MEAN),
        std=preprocess.get("std", CLIP_STD),
    )
    defaults = {"context_length": 77, "vocab_size": VOCAB_SIZE, "width": 512, "layers": 12, "heads": 8}
    textual = TextTower(head_mlp=config.text.head_mlp, **{key: text.get(key, value) for key, value in defaults.items()})
    named = {
        "name": Path(given.name).stem if _is_described(given.name) else given.name,
        "pretrained": given.pretrained and Path(given.pretrained).name,
        "tokenizer": given.tokenizer and Path(given.tokenizer).name,
        "architecture": architecture,
    }
    return config.model_copy(
        update={
            "dim": architecture["embed_dim"],
            "image": vision,
            "text": textual,
            "quick_gelu": bool(architecture.get("quick_gelu", False)),
            "open_clip": given.model_copy(update=named),
        }
    )


def tokenizer_of(config: OpenClipConfig, resolved: ModelConfig) -> Tokenizer:
    """The tokenizer of open_clip's towers: CLIP's, or the one that the config names."""
    text = resolved.text
    if config.tokenizer is None and text.vocab_size != VOCAB_SIZE:
        message = f"{config.name} has {text.vocab_size} tokens, CLIP's vocabulary {VOCAB_SIZE}"
        raise TrainingError(message, hint="Name its tokenizer.json in model.open_clip.tokenizer")
    path = None if config.tokenizer is None else Path(config.tokenizer).expanduser()
    return read_tokenizer(path, text.vocab_size, text.context_length)[0]


def _without_scale(clip: CLIP | CustomTextCLIP) -> nn.Module:
    """Towers alone: the model has a logit scale of its own, with its clamps, and no bias."""
    towers: Any = clip
    del towers.logit_scale
    towers.logit_bias = None
    return cast(nn.Module, towers)


def _own(config: ModelConfig) -> CLIP:
    image, text = config.image, config.text
    same = {"width", "layers", "mlp_ratio"}
    vision = image.model_dump(include=same | {"head_width"})
    textual = text.model_dump(include=same | {"context_length", "vocab_size", "heads"})
    return CLIP(
        config.dim,
        CLIPVisionCfg(image_size=image.size, patch_size=image.patch, pool_type="tok", **vision),
        CLIPTextCfg(**textual),
        quick_gelu=config.quick_gelu,
    )


def _open_clip(config: OpenClipConfig) -> CLIP | CustomTextCLIP:
    if config.architecture is None:
        raise TrainingError(f"the towers {config.name!r} are not looked up", hint="Pass the config to resolve first")
    architecture = deepcopy(config.architecture)
    kind = CustomTextCLIP if architecture.pop("custom_text", False) else CLIP
    if architecture["vision_cfg"].get("timm_model_name"):
        architecture["vision_cfg"]["timm_model_pretrained"] = False  # its weights come with the tag, or not at all
    try:
        return kind(**architecture)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise TrainingError(f"open_clip cannot build the architecture of {config.name!r}: {error}") from error


def describe(config: OpenClipConfig) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Architecture and preprocessing of a name and a tag, in open_clip's terms (`TrainingError`: there is none)."""
    preprocess: Mapping[str, Any] = {}
    if _is_described(config.name):
        try:
            described = json.loads(Path(config.name).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{config.name} cannot be read as JSON: {error}") from error
        architecture = described.get("model_cfg", described) if isinstance(described, dict) else {}
        preprocess = described.get("preprocess_cfg", {}) if isinstance(described, dict) else {}
    else:
        architecture = get_model_config(config.name.replace("/", "-")) if ":" not in config.name else None
        if architecture is None:
            message = f"open_clip has no architecture {config.name!r}"
            raise TrainingError(message, hint="See `open_clip.list_models()`; a JSON file can describe another")
    if not isinstance(architecture, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= architecture.keys():
        raise TrainingError(f"{config.name} describes no CLIP; expected embed_dim, vision_cfg and text_cfg")
    if config.pretrained and (tag := get_pretrained_cfg(config.name, config.pretrained)):
        preprocess = tag
        # The activation belongs to the weights: OpenAI's were trained with another one than most.
        if tag.get("quick_gelu"):
            architecture = {**architecture, "quick_gelu": True}
    return architecture, preprocess


def _refuse(name: str, architecture: Mapping[str, Any], preprocess: Mapping[str, Any]) -> None:
    text = architecture["text_cfg"]
    foreign = [key for key in _FOREIGN if text.get(key)]
    if foreign or text.get("pool_type", "argmax") != "argmax" or "multimodal_cfg" in architecture:
        why = ", ".join(foreign) or f"pool_type {text.get('pool_type')!r}, or a multimodal decoder"
        message = f"the text tower of {name} does not read CLIP's tokens up to an end token ({why}), which bundles need"
        raise TrainingError(message, hint="Choose one with CLIP's text transformer, such as ViT-B-16")
    for key, known in (("interpolation", ("bicubic", "random")), ("resize_mode", ("shortest",))):
        if (wanted := preprocess.get(key, known[0])) not in known:
            raise TrainingError(f"{name} wants pictures resized with {key} {wanted!r}; only {known[0]} is supported")


def _weights(config: OpenClipConfig) -> Path:
    """Path of the weights that a config names, downloaded if they are a tag."""
    name = str(config.pretrained)
    tag = get_pretrained_cfg(config.name, name)
    path = Path(name).expanduser()
    if not tag and path.is_file():
        return path
    if not tag:
        known = ", ".join(list_pretrained_tags_by_model(config.name)) or "none"
        raise TrainingError(f"{name!r} is no file and no tag that open_clip has for {config.name}; its tags: {known}")
    try:
        return Path(download_pretrained(tag))
    except Exception as error:  # the hub, urllib and the file system each raise their own
        message = f"the weights {name!r} of {config.name} could not be downloaded: {error}"
        raise TrainingError(message, hint="Give the downloaded file in model.open_clip.pretrained") from error


def _is_described(name: str) -> bool:
    """Whether a name is that of a file rather than of an architecture."""
    return name.endswith(".json")
