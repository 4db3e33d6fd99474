"""The start of a run: a model and a vocabulary, new ones or those of trained towers."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from hysac_export.config import ModelConfig, TrainConfig
from hysac_export.data.feed import Feed
from hysac_export.model.hysac import HySAC
from hysac_export.model.lora import adapt
from hysac_export.model.text_tower import load_encoder, sentence_tokenizer
from hysac_export.model.tokenizer import train_tokenizer
from hysac_export.model.towers import pretrained_towers, tokenizer_of
from hysac_export.training.run import TrainedRun
from hysac_retrieval.errors import TrainingError

_MAY_DIFFER = {"geometry", "curvature", "learn_curvature", "open_clip"}
"""Settings of a model that may differ from those of the one whose weights it starts from."""


class Beginning:
    """The start of a run.

    The config's model is resolved (`towers.resolve`), `given` is as the user wrote it. A run that is not `fresh` is
    resumed: its weights are in its checkpoint.
    """

    def __init__(self, config: TrainConfig, given: ModelConfig, *, fresh: bool = True) -> None:
        self._config = config
        self._given = given
        self._fresh = fresh
        self._start = _start(config) if fresh and config.start_from is not None else None

    def tokenizer(self, feed: Feed) -> Tokenizer:
        """That of the trained towers, or one learned from the training captions."""
        if self._start is not None:
            return self._start.tokenizer
        if self._given.open_clip is not None:
            return tokenizer_of(self._given.open_clip, self._config.model)
        if self._given.text.pretrained is not None:
            return sentence_tokenizer(self._given.text)
        return train_tokenizer(feed.captions(), self._config.model.text.vocab_size)

    def model(self) -> HySAC:
        """The model, adapters put on."""
        clip, towers = None, self._given.open_clip
        if towers is not None and self._fresh and self._start is None:
            clip = pretrained_towers(towers, self._config.model)
        model = HySAC(self._config.model, clip)
        if model.sentences is not None and self._fresh and self._start is None:
            load_encoder(model.sentences, self._given.text)
        if self._start is not None:
            model.load_state_dict(self._start.model.state_dict())
            self._start = None  # its weights are not needed twice
        if (adapters := self._config.model.adapters) is not None:
            adapt(model, adapters)
        return model


def _start(config: TrainConfig) -> TrainedRun:
    """The run that another starts from (`TrainingError`: there is none, or its model has other towers)."""
    run = TrainedRun.load(str(config.start_from))
    there, here = _towers(run.config.model), _towers(config.model)
    differing = [
        f"model.{name} is {there[name]!r} there, {here[name]!r} here" for name in here if there[name] != here[name]
    ]
    if differing:
        message = f"the weights of {config.start_from} do not fit: {'; '.join(differing)}"
        raise TrainingError(message, hint="Make the config's model like that run's")
    return run


def _towers(model: ModelConfig) -> dict[str, Any]:
    """Settings that decide whether weights fit, by name."""
    architecture = None if model.open_clip is None else model.open_clip.architecture
    return model.model_dump(exclude=_MAY_DIFFER) | {"open_clip.architecture": architecture}
