"""What the ``data`` section of a config stands for: batches to train on, a set to validate on, captions.

The trainer asks for nothing else, so this is where another kind of data set comes in. Whatever the kind, the batch of a
step is a function of (seed, step) alone: that is what lets a run be resumed, and be shared among processes, to the same
numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from hysac_export.config import TrainConfig, ValidationConfig
from hysac_export.data import Batch, SceneBatches, tokenize, training_scenes
from hysac_export.encoded import DrawnSplit, draw_split
from hysac_export.scenes import caption
from hysac_retrieval.errors import TrainingError


def training_batches(config: TrainConfig, tokenizer: Tokenizer, start: int) -> Iterable[Batch]:
    """Whole batches of the steps from `start` to the end; a process takes its share of each."""
    return SceneBatches(config, tokenizer).loader(start)


def validation_set(config: TrainConfig, validation: ValidationConfig) -> DrawnSplit:
    """Quadruplets that are not trained on, drawn at the model's size."""
    return draw_split("validation", validation.quadruplets, 0, config.model.image.size)


def sample_captions(config: TrainConfig) -> list[str]:
    """Captions of the training set, enough to learn a vocabulary from."""
    rng = np.random.default_rng((config.seed, 2))
    scenes = training_scenes(config.data)[:20_000]
    return [caption(scene, rng) for q in scenes for scene in (q.safe, q.unsafe)]


def telling_words(config: TrainConfig, tokenizer: Tokenizer, most: float = 0.05) -> Tensor:
    """Token ids that say something of the picture: in at least five captions, and in at most a share `most` of them.

    That leaves out articles and the words of the templates, which no picture can tell and which would drown the rest.

    Raises:
        TrainingError: There are no such words.
    """
    captions = sample_captions(config)
    seen = np.zeros(config.model.text.vocab_size, dtype=np.int64)
    for row in tokenize(tokenizer, captions):
        seen[np.unique(row)] += 1
    words = np.flatnonzero((seen >= 5) & (seen <= most * len(captions)))
    if not words.size:
        raise TrainingError(
            f"of {len(captions)} captions no word is in at least five and at most {most:.0%}; "
            "train on more quadruplets, or set loss.words to 0"
        )
    return torch.from_numpy(words)
