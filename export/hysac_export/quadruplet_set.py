"""A training set and a validation set of quadruplets in files, and batches of them.

Rows are held in memory, pictures are decoded when their batch is drawn, by the worker processes of the loader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hysac_export.config import DataConfig, ImageTower, TrainConfig
from hysac_export.data import Batch, StepBatches, tokenize
from hysac_export.encoded import DrawnSplit
from hysac_export.quadruplet_rows import BadRow, Picture, QuadrupletRow, Slice, Spool, read_quadruplets
from hysac_retrieval.bundle import ImageSpec
from hysac_retrieval.errors import ImageError, TrainingError
from hysac_retrieval.preprocess import load_image, preprocess


@dataclass(frozen=True)
class QuadrupletSets:
    """What the sources of a config hold.

    Attributes:
        train: Rows to train on.
        validation: Rows to validate and calibrate on, none of them trained on.
        bad: What the sources hold besides, and cannot be used.
        spool: Where pictures are that are no files; has to live as long as the rows are used.
    """

    train: Sequence[QuadrupletRow]
    validation: Sequence[QuadrupletRow]
    bad: Sequence[BadRow]
    spool: Spool

    @classmethod
    def open(cls, data: DataConfig) -> QuadrupletSets:
        """Read the sources of a config.

        Raises:
            SourceError: A source cannot be read.
            MissingExtraError: It needs a package that is not installed.
            TrainingError: There are no rows to train on.
        """
        spool = Spool()
        bad: list[BadRow] = []

        def read(sources: Sequence[str]) -> list[QuadrupletRow]:
            rows: list[QuadrupletRow] = []
            for found in read_quadruplets(sources, spool):
                if isinstance(found, BadRow):
                    bad.append(found)
                else:
                    rows.append(found)
            return rows

        train, validation = read(data.train), read(data.validation)
        if not data.validation:
            held = [held_out(row, data.holdout) for row in train]
            validation = [row for row, out in zip(train, held, strict=True) if out]
            train = [row for row, out in zip(train, held, strict=True) if not out]
        if not train:
            first = f" The first of {len(bad)} that cannot be used is {bad[0].origin}: {bad[0].what}" if bad else ""
            raise TrainingError(f"{', '.join(data.train)} holds no quadruplets to train on.{first}")
        return cls(train, validation, bad, spool)

    @property
    def digest(self) -> str:
        """Hash of all rows: captions, categories, and names or sizes of pictures, hexadecimal."""
        found = hashlib.blake2b(digest_size=16)
        for row in (*self.train, None, *self.validation):
            found.update(repr(row and (row.safe, row.unsafe, row.category, *map(_name, pictures_of(row)))).encode())
        return found.hexdigest()


def held_out(row: QuadrupletRow, share: float) -> bool:
    """Whether a row is held out for validation, by a hash of its safe caption: rows that share one stay together."""
    found = hashlib.blake2b(row.safe.casefold().encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(found, "big") < share * 2**32


def pictures_of(row: QuadrupletRow) -> tuple[Picture | None, Picture | None]:
    """The safe picture and the unsafe one."""
    return row.safe_image, row.unsafe_image


def image_spec(image: ImageTower) -> ImageSpec:
    """How pictures are resized for a model."""
    return ImageSpec(size=image.size, mean=image.mean, std=image.std)


def read_picture(picture: Picture, spec: ImageSpec) -> NDArray[np.uint8]:
    """Decode a picture and resize it as bundles do, (S, S, 3).

    Raises:
        ImageError: It is missing or cannot be decoded.
    """
    if isinstance(picture, Slice):
        try:
            return preprocess(load_image(picture.read()), spec)
        except OSError as error:
            raise ImageError(f"the picture in {picture.path} cannot be read: {error}") from error
    return preprocess(load_image(picture), spec)


class FileBatches(StepBatches):
    """Batches of a training run on quadruplets in files; item s is the batch of step s.

    Raises, from a worker too:
        TrainingError: A picture cannot be read, and the config does not say to do without.
    """

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, rows: Sequence[QuadrupletRow]) -> None:
        super().__init__(config, len(rows))
        self.tokenizer = tokenizer
        self.rows = rows
        self._spec = image_spec(config.model.image)

    def __getitem__(self, step: int) -> Batch:
        chosen = [self.rows[i] for i in self.rows_of(step)]
        size = self._spec.size
        pixels = np.zeros((2 * len(chosen), size, size, 3), dtype=np.uint8)
        shown = np.zeros(len(pixels), dtype=np.bool_)
        for side in range(2):
            for place, row in enumerate(chosen, start=side * len(chosen)):
                picture = pictures_of(row)[side]
                if picture is not None:
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
            raise TrainingError(
                f"the picture of {row.origin} cannot be read any more: {error}; mend it, or set data.skip_bad"
            ) from error
        return True


def whole_quadruplets(
    rows: Sequence[QuadrupletRow],
    n: int,
    spec: ImageSpec,
    *,
    seed: int = 0,
    skip_bad: bool = False,
    name: str = "validation",
    progress: Callable[[int], None] | None = None,
) -> DrawnSplit:
    """The first n quadruplets that have both pictures, in an order by seed; all of them where there are fewer.

    Args:
        rows: The rows to choose from.
        n: How many, at least 1.
        spec: How pictures are resized.
        seed: Seed of the order.
        skip_bad: Pass over rows whose pictures cannot be read.
        name: What the split is called.
        progress: Called as quadruplets are done.

    Raises:
        TrainingError: No row has both pictures.
        ImageError: A picture cannot be read.
    """
    chosen: list[QuadrupletRow] = []
    pixels: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])
    for place in np.random.default_rng(seed).permutation(len(rows)):
        row = rows[place]
        if len(chosen) == n:
            break
        if row.safe_image is None or row.unsafe_image is None:
            continue
        try:
            found = read_picture(row.safe_image, spec), read_picture(row.unsafe_image, spec)
        except ImageError:
            if not skip_bad:
                raise
            continue
        chosen.append(row)
        for side, picture in zip(pixels, found, strict=True):
            side.append(picture)
        if progress:
            progress(1)
    if not chosen:
        raise TrainingError(
            f"none of {len(rows)} rows for {name} has a safe and an unsafe picture; name some that have in "
            "data.validation"
        )
    return DrawnSplit(
        name,
        [row.safe for row in chosen],
        np.stack(pixels[0]),
        [row.unsafe for row in chosen],
        np.stack(pixels[1]),
        np.array([row.category for row in chosen], dtype=np.str_),
        np.zeros(len(chosen), dtype=np.bool_),
    )


def _name(picture: Picture | None) -> str | int | None:
    if isinstance(picture, Slice):
        return picture.size
    return None if picture is None else picture.name
