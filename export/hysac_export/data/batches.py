"""Batches of quadruplets as a pure function of the step.

Step s of a run with a given seed always yields the same batch, whatever came before: that is all a resumed run needs to
see the numbers it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hysac_export.config import CLIP_MEAN, CLIP_STD, Colour, TrainConfig
from hysac_retrieval.errors import TrainingError


@dataclass(frozen=True)
class Batch:
    """B quadruplets as the encoders take them: safe half first, unsafe half second.

    Attributes:
        pixels: (2B, S, S, 3) uint8.
        tokens: (2B, L) int64.
        shown: (2B,) bool, which rows have a picture; of the others `pixels` holds anything. None: all of them.
    """

    pixels: Tensor
    tokens: Tensor
    shown: Tensor | None = None

    def to(self, device: torch.device) -> Self:
        """Move to a device."""
        shown = None if self.shown is None else self.shown.to(device, non_blocking=True)
        return type(self)(self.pixels.to(device, non_blocking=True), self.tokens.to(device, non_blocking=True), shown)


class StepBatches(Dataset[Batch]):
    """Batches of a training run on n quadruplets; item s is the batch of step s."""

    def __init__(self, config: TrainConfig, n: int) -> None:
        self.config = config
        self._n = n

    def __len__(self) -> int:
        return self.config.total_steps

    def rows(self, step: int) -> Iterator[int]:
        """Rows of the batch: consecutive in an order that changes every epoch."""
        size, n = self.config.batch_size, self._n
        orders: dict[int, NDArray[np.int64]] = {}
        for position in range(step * size, (step + 1) * size):
            epoch, row = divmod(position, n)
            if epoch not in orders:
                orders[epoch] = self._order(epoch)
            yield int(orders[epoch][row])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Rows of an epoch: a permutation."""
        return np.random.default_rng((self.config.seed, epoch, 0)).permutation(self._n)

    def loader(self, start: int = 0) -> Iterator[Batch]:
        """Iterate from step `start` on, drawing ahead in workers (`TrainingError`: a batch cannot be drawn)."""
        workers = self.config.workers
        loader = DataLoader(
            _Caught(self),
            batch_size=None,
            sampler=range(start, self.config.total_steps),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_one_thread if workers else None,
        )
        for drawn in loader:
            if isinstance(drawn, TrainingError):
                raise drawn
            yield drawn


class _Caught(Dataset[Batch | TrainingError]):
    """Batches, or errors as values: one that leaves a worker by itself comes as text, with its whole traceback."""

    def __init__(self, batches: StepBatches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Batch | TrainingError:
        try:
            return self._batches[step]
        except TrainingError as error:
            return error


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.int64]:
    """Token ids, (n, L) int64; `tokenizer` has truncation and padding switched on (see `open_tokenizer`).

    Special tokens that are *written* in a text are ordinary characters, as in `hysac_retrieval.encoder.tokenization`.
    """
    tokenizer.encode_special_tokens = True  # here, for a tokenizer that was sent to a worker has forgotten it
    return np.array([encoding.ids for encoding in tokenizer.encode_batch(list(texts))], dtype=np.int64)


def uncut(tokenizer: Tokenizer) -> Tokenizer:
    """A copy of a tokenizer that neither cuts nor pads."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def open_tokenizer(path: Path, context_length: int) -> Tokenizer:
    """Read a tokenizer and have it cut and pad to `context_length` (`TrainingError`: the file is damaged)."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises bare Exception
        hint = "Put back a copy of the file, or train again in another folder"
        raise TrainingError(f"{path} is no tokenizer: {error}", hint=hint) from error
    tokenizer.enable_truncation(context_length)
    pads = [pad for name in ("<pad>", "[PAD]") if (pad := tokenizer.token_to_id(name)) is not None]
    # CLIP's has none: behind the end token nothing counts, and 0 serves.
    tokenizer.enable_padding(length=context_length, pad_id=pads[0] if pads else 0, pad_token="<pad>")
    return tokenizer


def normalise(pixels: Tensor, mean: Colour = CLIP_MEAN, std: Colour = CLIP_STD) -> Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S) float32 with a mean and a standard deviation per channel."""
    x = pixels.permute(0, 3, 1, 2).float() / 255.0
    return (x - x.new_tensor(mean).view(1, 3, 1, 1)) / x.new_tensor(std).view(1, 3, 1, 1)


def augment(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Vary colour, sharpness and framing of normalised pixels, (B, 3, S, S), each image by its own draw.

    Gain and offset per channel, mixing towards grey, a box blur for a part of the images, and a shift of up to
    `strength` · S/8 pixels, all proportional to `strength` in [0, 1]. Nothing here changes what is in the picture.
    """
    if strength <= 0:
        return pixels
    n, _, size, _ = pixels.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(pixels.device)

    gain = 1 + strength * (uniform(n, 3, 1, 1) - 0.5)
    offset = strength * (uniform(n, 3, 1, 1) - 0.5)
    grey = strength * (uniform(n, 1, 1, 1) < 0.3) * uniform(n, 1, 1, 1)
    x = pixels * gain + offset
    x = x + grey * (x.mean(1, keepdim=True) - x)
    blurred = torch.nonzero(uniform(n) < 0.3 * strength).flatten()
    x[blurred] = torch.nn.functional.avg_pool2d(x[blurred], 3, 1, 1, count_include_pad=False)
    reach = max(1, round(strength * size / 8))
    padded = torch.nn.functional.pad(x, (reach,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * reach + 1, (2, n), generator=generator).to(pixels.device)
    grid = torch.arange(size, device=pixels.device)
    rows, columns = top[:, None] + grid, left[:, None] + grid
    channels = torch.arange(3, device=pixels.device)
    batch = torch.arange(n, device=pixels.device)
    return padded[batch[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None]]


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
