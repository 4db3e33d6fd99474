"""A trained sentence encoder as the text tower, with a head on the states of its tokens.

A text's point is made of all its tokens: of the mean and the maximum of a feature that is learned of each. The
encoder's own vector of a text, a mean over the same states, tells too little of which things are named in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from hysac_export.config import ModelConfig, TextTower
from hysac_export.model.sentence import SentenceFolder
from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.errors import EncoderError, TrainingError


class TokenHead(nn.Module):
    """States of tokens, (B, L, w), and which are real, (B, L) bool, to features of texts, (B, d)."""

    def __init__(self, width: int, features: int, dim: int) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, features), nn.GELU())
        self.out = nn.Sequential(
            nn.LayerNorm(2 * features), nn.Linear(2 * features, features), nn.GELU(), nn.Linear(features, dim)
        )

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """Apply the head."""
        x = self.each(states)
        seen = real[..., None]
        # In float32: sums over tokens lose too much in half precision.
        mean = (x.float() * seen).sum(1) / seen.sum(1)
        largest = x.float().masked_fill(~seen, torch.finfo(torch.float32).min).amax(1)
        return cast(Tensor, self.out(torch.cat([mean, largest], dim=1)))


class SentenceTower(nn.Module):
    """A sentence encoder of a resolved config (see `resolved`), with random weights, and a new head.

    Token ids are (B, L) int64; what stands behind the first end token of a row counts for nothing.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        text = config.text
        self.end_id = int(_described(text)["end_id"])
        self.pooling = str(_described(text)["pooling"])
        self.width = text.width
        self.frozen = text.tuning == "frozen"
        self.transformer = _transformer(_described(text)["transformer"])
        self.transformer.requires_grad_(text.tuning == "whole")
        self.head = TokenHead(text.width, text.features, config.dim)

    def train(self, mode: bool = True) -> SentenceTower:
        """Set the mode; a frozen encoder has no dropout ever."""
        super().train(mode)
        if self.frozen:
            self.transformer.eval()
        return self

    def real(self, tokens: Tensor) -> Tensor:
        """Which tokens count, (B, L) bool."""
        ends = (tokens == self.end_id).long()
        return (ends.cumsum(1) - ends) == 0

    def trim(self, tokens: Tensor) -> Tensor:
        """Leave out the columns behind the longest text."""
        return tokens[:, : int(self.real(tokens).sum(1).max())]

    def states(self, tokens: Tensor) -> Tensor:
        """States of tokens, (B, L, w), any values behind the end."""
        found: Tensor = self.transformer(input_ids=tokens, attention_mask=self.real(tokens).long())[0]
        return found

    def forward(self, tokens: Tensor, states: Tensor | None = None) -> Tensor:
        """Features of texts, (B, d), from their tokens, or from states of these that are there already."""
        return cast(Tensor, self.head(self.states(tokens) if states is None else states, self.real(tokens)))

    def vectors(self, tokens: Tensor, states: Tensor) -> Tensor:
        """The encoder's own vectors of texts, (B, w) float32 of unit length, from states of their tokens."""
        states, seen = states.float(), self.real(tokens)[..., None]
        if self.pooling == "cls":
            pooled = states[:, 0]
        elif self.pooling == "max":
            pooled = states.masked_fill(~seen, torch.finfo(torch.float32).min).amax(1)
        else:
            pooled = (states * seen).sum(1) / seen.sum(1)
        return F.normalize(pooled, dim=-1)


def resolved(text: TextTower) -> TextTower:
    """Describe a tower's encoder in its config, so that no run needs the name again; the name shrinks to its last part.

    `TrainingError`: There is no such encoder, or it cannot be a tower.
    """
    found = _folder(text)
    # Names that begin with an underscore tell where a file came from.
    config = {key: value for key, value in found.config.items() if not key.startswith("_")}
    spec = found.spec
    if text.context_length > spec.context_length:
        message = f"{text.pretrained} reads {spec.context_length} tokens, model.text asks for {text.context_length}"
        raise TrainingError(message, hint="Set model.text.context_length")
    if any(kind == "Dense" for kind, _ in found.behind):
        raise TrainingError(f"{text.pretrained} has a dense layer behind its pooling, which a text tower has not")
    transformer = _transformer(config).config
    described = {"transformer": config, "pooling": found.pooling, "end_id": spec.end_id, "pad_id": spec.pad_id}
    sizes = {
        "vocab_size": transformer.vocab_size,
        "width": transformer.hidden_size,
        "layers": transformer.num_hidden_layers,
        "heads": transformer.num_attention_heads,
    }
    return text.model_copy(update=sizes | {"pretrained": Path(str(text.pretrained)).name, "described": described})


def load_encoder(tower: SentenceTower, text: TextTower) -> None:
    """Give a tower the weights of the encoder that the user's config names (`TrainingError`: they do not fit)."""
    from transformers import AutoModel
    from transformers.utils import logging

    folder, shown = _folder(text).path, logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # No code of the model's own is run: trust_remote_code is off unless asked for.
        trained = AutoModel.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32)
        trained.pooler = None
        tower.transformer.load_state_dict(trained.state_dict())
    except Exception as error:  # transformers and safetensors let out whatever they trip over
        raise TrainingError(f"the weights in {folder} cannot be loaded: {error}") from error
    finally:
        if shown:
            logging.enable_progress_bar()


def text_spec(text: TextTower) -> TextSpec:
    """The manifest's description of the tokens of a sentence encoder; its graph takes rows of any length."""
    described = _described(text)
    return TextSpec(
        context_length=text.context_length, pad_id=described["pad_id"], end_id=described["end_id"], dynamic=True
    )


def sentence_tokenizer(text: TextTower) -> Tokenizer:
    """The tokenizer of the encoder that the user's config names."""
    return _folder(text).tokenizer


def _folder(text: TextTower) -> SentenceFolder:
    try:
        return SentenceFolder.open(str(text.pretrained), graph=False)
    except EncoderError as error:
        raise TrainingError(error.message, hint=error.hint or "Name another in model.text.pretrained") from error


def _transformer(config: dict[str, Any]) -> Any:
    """A model of transformers with random weights, without what some have behind the states."""
    from transformers import AutoConfig, AutoModel

    rest = {key: value for key, value in config.items() if key != "model_type"}
    try:
        found = AutoConfig.for_model(config.get("model_type"), **rest)
        # Plain products: on CPUs fused attention is no faster, and its graph has more to run.
        model = AutoModel.from_config(found, attn_implementation="eager")
    except Exception as error:  # of an unknown kind, or of sizes that do not fit
        raise TrainingError(f"transformers cannot build the text encoder: {error}") from error
    model.pooler = None
    return model


def _described(text: TextTower) -> dict[str, Any]:
    if text.described is None:
        raise TrainingError(f"the text encoder {text.pretrained!r} is not looked up", hint="Pass the config to resolve")
    return text.described
