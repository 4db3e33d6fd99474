"""The data set of a config: batches to train on, a set to validate on, captions.

The batch of a step is a function of (seed, step) alone: that lets a run be resumed, and be shared among processes, to
the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from hysac_export.config import TrainConfig
from hysac_export.data.batches import Batch, tokenize
from hysac_export.data.quadruplets.batches import FileBatches
from hysac_export.data.quadruplets.check import DataReport, check_sets
from hysac_export.data.quadruplets.sets import QuadrupletSets, image_spec, whole_quadruplets
from hysac_export.data.scenes import caption
from hysac_export.data.scenes.batches import SceneBatches, training_scenes
from hysac_export.data.split import DrawnSplit, Progress, draw_split
from hysac_retrieval.errors import TrainingError

_CAPTIONS = 40_000
"""Captions that a vocabulary is learned from, at most."""


class Feed(Protocol):
    """A data set to train on."""

    def captions(self) -> list[str]:
        """Captions of the training set, enough to learn a vocabulary from."""

    def batches(self, tokenizer: Tokenizer, start: int) -> Iterable[Batch]:
        """Whole batches of the steps from `start` to the end; a process takes its share of each."""

    def validation(self, n: int, seed: int = 0, progress: Progress | None = None) -> DrawnSplit:
        """At most n quadruplets that are not trained on, at the model's size."""

    def check(self, tokenizer: Tokenizer, progress: Progress | None = None) -> DataReport | None:
        """Look through the whole set before anything is trained on it; None for scenes."""

    @property
    def digest(self) -> str:
        """Hash of a set that may have changed when a run is resumed; empty for scenes."""


def open_feed(config: TrainConfig) -> Feed:
    """Open the data set of a config (`TrainingError`: there is nothing to train on); see also `read_quadruplets`."""
    return FileFeed(config) if config.data.train else SceneFeed(config)


@dataclass(frozen=True)
class SceneFeed:
    """The scenes."""

    config: TrainConfig
    digest: str = ""

    def captions(self) -> list[str]:
        """See `Feed`."""
        rng = np.random.default_rng((self.config.seed, 2))
        scenes = training_scenes(self.config.data)[: _CAPTIONS // 2]
        return [caption(scene, rng) for q in scenes for scene in (q.safe, q.unsafe)]

    def batches(self, tokenizer: Tokenizer, start: int) -> Iterable[Batch]:
        """See `Feed`."""
        return SceneBatches(self.config, tokenizer).loader(start)

    def validation(self, n: int, seed: int = 0, progress: Progress | None = None) -> DrawnSplit:
        """See `Feed`."""
        return draw_split("validation", n, seed, self.config.model.image.size, progress)

    def check(self, tokenizer: Tokenizer, progress: Progress | None = None) -> None:
        """Scenes are right by construction."""


class FileFeed:
    """Quadruplets in files."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.sets = QuadrupletSets.open(config.data)

    @property
    def digest(self) -> str:
        """See `Feed`."""
        return self.sets.digest

    def captions(self) -> list[str]:
        """See `Feed`."""
        return [text for row in self.sets.train[: _CAPTIONS // 2] for text in (row.safe, row.unsafe)]

    def batches(self, tokenizer: Tokenizer, start: int) -> Iterable[Batch]:
        """See `Feed`."""
        return FileBatches(self.config, tokenizer, self.sets.train).loader(start)

    def validation(self, n: int, seed: int = 0, progress: Progress | None = None) -> DrawnSplit:
        """See `Feed`."""
        spec, skip = image_spec(self.config.model.image.size), self.config.data.skip_bad
        return whole_quadruplets(self.sets.validation, n, spec, seed=seed, skip_bad=skip, progress=progress)

    def check(self, tokenizer: Tokenizer, progress: Progress | None = None) -> DataReport:
        """See `Feed`."""
        return check_sets(self.config, self.sets, tokenizer, progress)


def telling_words(captions: Sequence[str], vocab_size: int, tokenizer: Tokenizer, most: float = 0.05) -> Tensor:
    """Token ids that say something of the picture (`TrainingError`: there are none).

    They are in at least five captions, and in at most a share `most` of them: articles and the words of the templates,
    which no picture can tell, would drown the rest.
    """
    seen = np.zeros(vocab_size, dtype=np.int64)
    for row in tokenize(tokenizer, captions):
        seen[np.unique(row)] += 1
    words = np.flatnonzero((seen >= 5) & (seen <= most * len(captions)))
    if not words.size:
        message = f"of {len(captions)} captions no word is in at least five and at most {most:.0%}"
        raise TrainingError(message, hint="Train on more quadruplets, or set loss.words to 0")
    return torch.from_numpy(words)
