"""A training set and a validation set of quadruplets in files.

Rows are held in memory, pictures are read when they are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hysac_export.config import CLIP_MEAN, CLIP_STD, DataConfig
from hysac_export.data.quadruplets.rows import BadRow, Picture, QuadrupletRow, Slice, Spool, read_quadruplets
from hysac_export.data.split import DrawnSplit, Progress, check_seed
from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.encoder.preprocess import load_image, preprocess
from hysac_retrieval.errors import ImageError, TrainingError


@dataclass(frozen=True)
class QuadrupletSets:
    """The contents of a config's sources.

    No row to validate and calibrate on is trained on; `bad` ones cannot be used. `spool` keeps pictures that are not
    files, and has to live as long as the rows are used.
    """

    train: Sequence[QuadrupletRow]
    validation: Sequence[QuadrupletRow]
    bad: Sequence[BadRow]
    spool: Spool

    @classmethod
    def open(cls, data: DataConfig) -> QuadrupletSets:
        """Read the sources of a config (`TrainingError`: there are no rows to train on); see `read_quadruplets`."""
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
            found.update(repr(row and (row.safe, row.unsafe, row.category, *map(_name, row.pictures))).encode())
        return found.hexdigest()


def held_out(row: QuadrupletRow, share: float) -> bool:
    """Whether a row is held out for validation, by a hash of its safe caption: rows that share one stay together."""
    found = hashlib.blake2b(row.safe.casefold().encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(found, "big") < share * 2**32


def image_spec(size: int) -> ImageSpec:
    """How pictures are resized for a model that takes `size` × `size` pixels; these are normalised later."""
    return ImageSpec(size=size, mean=CLIP_MEAN, std=CLIP_STD)


def read_picture(picture: Picture, spec: ImageSpec) -> NDArray[np.uint8]:
    """Decode a picture and resize it as bundles do, (S, S, 3) (`ImageError`: it is missing or cannot be decoded)."""
    if isinstance(picture, Slice):
        try:
            return preprocess(load_image(picture.read()), spec)
        except OSError as error:
            raise ImageError(f"the picture in {picture.path} cannot be read: {error}") from error
    return preprocess(load_image(picture), spec)


def whole_quadruplets(
    rows: Sequence[QuadrupletRow],
    n: int,
    spec: ImageSpec,
    *,
    seed: int = 0,
    skip_bad: bool = False,
    name: str = "validation",
    progress: Progress | None = None,
) -> DrawnSplit:
    """Draw at most n quadruplets that have both pictures, in an order by seed; `name` is that of the split.

    With `skip_bad`, rows whose pictures cannot be read are passed over, else that is an `ImageError`. `TrainingError`:
    no row has both pictures; `SettingsError`: the seed is negative.
    """
    check_seed(seed)
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
        message = f"none of {len(rows)} rows for {name} has a safe and an unsafe picture"
        raise TrainingError(message, hint="Give some that have (for a run, in data.validation)")
    safe, unsafe = [row.safe for row in chosen], [row.unsafe for row in chosen]
    categories = np.array([row.category for row in chosen], dtype=np.str_)
    context = np.zeros(len(chosen), dtype=np.bool_)
    return DrawnSplit(name, safe, np.stack(pixels[0]), unsafe, np.stack(pixels[1]), categories, context)


def draw_files(
    sources: Sequence[str], n: int, seed: int = 0, size: int = 64, progress: Progress | None = None
) -> DrawnSplit:
    """Draw at most n quadruplets of sources, for evaluation, as `whole_quadruplets` does (`TrainingError`: bad row)."""
    spool = Spool()
    found = list(read_quadruplets(sources, spool))
    for bad in found:
        if isinstance(bad, BadRow):
            raise TrainingError(f"{bad.origin} is no quadruplet: {bad.what}")
    rows = [row for row in found if isinstance(row, QuadrupletRow)]
    return whole_quadruplets(rows, n, image_spec(size), seed=seed, name=", ".join(sources), progress=progress)


def _name(picture: Picture | None) -> str | int | None:
    if isinstance(picture, Slice):
        return picture.size
    return None if picture is None else picture.name
