"""Batches of quadruplets in files. Pictures are decoded when their batch is drawn, by the loader's worker processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hysac_export.config import TrainConfig
from hysac_export.data.batches import Batch, StepBatches, tokenize
from hysac_export.data.quadruplets.rows import Picture, QuadrupletRow
from hysac_export.data.quadruplets.sets import image_spec, read_picture
from hysac_retrieval.errors import ImageError, TrainingError


class FileBatches(StepBatches):
    """Batches of a training run on quadruplets in files; item s is the batch of step s.

    Raises, from a worker too:
        TrainingError: A picture cannot be read, and the config does not say to do without.
    """

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, rows: Sequence[QuadrupletRow]) -> None:
        super().__init__(config, len(rows))
        self.tokenizer = tokenizer
        self._quadruplets = rows
        self._spec = image_spec(config.model.image.size)

    def __getitem__(self, step: int) -> Batch:
        chosen = [self._quadruplets[i] for i in self.rows(step)]
        size = self._spec.size
        pixels = np.zeros((2 * len(chosen), size, size, 3), dtype=np.uint8)
        shown = np.zeros(len(pixels), dtype=np.bool_)
        for side in range(2):
            for place, row in enumerate(chosen, start=side * len(chosen)):
                if (picture := row.pictures[side]) is not None:
                    shown[place] = self._draw(row, picture, pixels[place])
        tokens = tokenize(self.tokenizer, [row.safe for row in chosen] + [row.unsafe for row in chosen])
        mask = None if shown.all() else torch.from_numpy(shown)
        return Batch(torch.from_numpy(pixels), torch.from_numpy(tokens), mask)

    def _draw(self, row: QuadrupletRow, picture: Picture, out: NDArray[np.uint8]) -> bool:
        try:
            out[:] = read_picture(picture, self._spec)
        except ImageError as error:
            if self.config.data.skip_bad:
                return False
            message = f"the picture of {row.origin} cannot be read any more: {error}"
            raise TrainingError(message, hint="Mend it, or set data.skip_bad") from error
        return True
