"""A look through a whole set of quadruplets, before the first step is taken on it.

Every row is read, every picture decoded, every caption cut into tokens. What would spoil the training is an error, what
may be meant is a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from hysac_export.config import LossConfig, ModelConfig, TrainConfig
from hysac_export.data.batches import uncut
from hysac_export.data.quadruplets.rows import Picture, QuadrupletRow, Slice
from hysac_export.data.quadruplets.sets import QuadrupletSets, image_spec
from hysac_export.data.split import Progress
from hysac_retrieval.encoder.pictures import DEFAULT_MAX_PIXELS
from hysac_retrieval.errors import TrainingError
from hysac_retrieval.ingest.pipeline.decode import Decoded, Decoding, Job
from hysac_retrieval.ingest.pipeline.workers import Decoder, Ticket

_EXAMPLES = 5
_AT_ONCE = 32
_THUMBNAIL = 8  # decoded whole, but little has to come back from the worker


@dataclass(frozen=True)
class SplitReport:
    """Counts of a split: usable rows, by the pictures they have and by category; captions beyond the context are cut.

    `repeated` rows repeat an earlier one; `longest_caption` is in tokens.
    """

    rows: int
    both_images: int
    safe_image_only: int
    unsafe_image_only: int
    text_only: int
    repeated: int
    long_captions: int
    longest_caption: int
    categories: dict[str, int]


@dataclass(frozen=True)
class Trouble:
    """A kind of trouble: the number of rows, and the first of them in words."""

    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class DataReport:
    """Contents of a set of quadruplets, and what is wrong with them.

    Troubles are rows and pictures that cannot be used, by kind; errors are reasons why the set cannot be trained on,
    warnings what may or may not be meant.
    """

    train: SplitReport
    validation: SplitReport
    troubles: dict[str, Trouble]
    context_length: int
    errors: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    def refuse(self) -> None:
        """Raise a `TrainingError` if the set cannot be trained on."""
        if self.errors:
            raise TrainingError("the data cannot be trained on: " + "; ".join(self.errors))


def check_sets(
    config: TrainConfig, sets: QuadrupletSets, tokenizer: Tokenizer, progress: Progress | None = None
) -> DataReport:
    """Look through the sets of a run; `progress` is called as pictures are decoded."""
    troubles: dict[str, list[str]] = {}
    for bad in sets.bad:
        troubles.setdefault(bad.kind, []).append(f"{bad.origin}: {bad.what}")
    # A picture that many rows share is decoded once.
    where: dict[Picture, str] = {}
    for row in (*sets.train, *sets.validation):
        for picture in row.pictures:
            if picture is not None:
                where.setdefault(picture, row.origin)
    for picture, decoded in _decode(config, list(where), progress):
        if decoded.error is not None:
            troubles.setdefault("unreadable picture", []).append(f"{where[picture]}: {decoded.error}")
    context = config.model.text.context_length
    train, validation = (_split(rows, uncut(tokenizer), context) for rows in (sets.train, sets.validation))
    found = {kind: Trouble(len(all_), tuple(all_[:_EXAMPLES])) for kind, all_ in troubles.items()}
    shared = {row.safe for row in sets.train} & {row.safe for row in sets.validation}
    errors, warnings = _judge(config, train, validation, found, len(shared))
    return DataReport(train, validation, found, context, tuple(errors), tuple(warnings))


def learns_from_texts(loss: LossConfig, model: ModelConfig) -> bool:
    """Whether a loss has a term that compares captions with captions."""
    if model.geometry == "euclidean":
        return bool(loss.safe_clip)
    return bool(loss.radius or (loss.entailment and "T<T*" in loss.cones))


def _judge(
    config: TrainConfig, train: SplitReport, validation: SplitReport, troubles: dict[str, Trouble], shared: int
) -> tuple[list[str], list[str]]:
    errors: list[str] = []
    warnings: list[str] = []
    for kind, trouble in troubles.items():
        found = f"{trouble.count} × {kind}, the first {trouble.examples[0]}"
        if config.data.skip_bad:
            warnings.append(f"left out: {found}")
        else:
            errors.append(f"{found} (mend them, or set data.skip_bad)")
    if train.rows < config.batch_size:
        errors.append(f"{train.rows} rows to train on are less than one batch of {config.batch_size}")
    if train.text_only and not learns_from_texts(config.loss, config.model):
        mend = "set loss.radius, or name the cone 'T<T*' in loss.cones"
        said = f"{train.text_only} of {train.rows} rows have no picture, and no term of the loss is of captions alone"
        (errors if train.text_only == train.rows else warnings).append(f"{said}; {mend}")
    if config.validation is not None and validation.both_images < 2:
        errors.append(
            f"{validation.both_images} rows for validation have both pictures, expected at least 2; name some in "
            "data.validation, or leave out the section `validation`"
        )
    elif not validation.both_images:
        warnings.append("no row with both pictures is held out, so `hysac calibrate` will have nothing to measure on")
    for name, split in (("train", train), ("validation", validation)):
        if split.repeated:
            warnings.append(f"{split.repeated} rows of {name} repeat another one")
        if split.long_captions:
            warnings.append(
                f"{split.long_captions} captions of {name} are longer than the model's context of "
                f"{config.model.text.context_length} tokens (the longest has {split.longest_caption}), and are cut"
            )
    if shared:
        warnings.append(f"{shared} safe captions are in both train and validation")
    return errors, warnings


def _split(rows: Sequence[QuadrupletRow], tokenizer: Tokenizer, context: int) -> SplitReport:
    images = Counter((row.safe_image is not None, row.unsafe_image is not None) for row in rows)
    distinct = {(row.safe, row.unsafe, *row.pictures) for row in rows}
    lengths: list[int] = []
    captions = (text for row in rows for text in (row.safe, row.unsafe))
    tokenizer.encode_special_tokens = True  # as `data.tokenize` does
    while part := list(islice(captions, 10_000)):
        lengths += [len(encoding.ids) for encoding in tokenizer.encode_batch(part)]
    return SplitReport(
        rows=len(rows),
        both_images=images[True, True],
        safe_image_only=images[True, False],
        unsafe_image_only=images[False, True],
        text_only=images[False, False],
        repeated=len(rows) - len(distinct),
        long_captions=sum(length > context for length in lengths),
        longest_caption=max(lengths, default=0),
        categories=dict(Counter(row.category for row in rows).most_common()),
    )


def _decode(
    config: TrainConfig, pictures: Sequence[Picture], progress: Progress | None
) -> Iterator[tuple[Picture, Decoded]]:
    """Decode pictures in worker processes, a bounded number of them ahead."""
    spec = image_spec(_THUMBNAIL)
    parts = [pictures[start : start + _AT_ONCE] for start in range(0, len(pictures), _AT_ONCE)]
    # A few are decoded sooner than a process has started.
    workers = config.workers if len(parts) > 2 else 0
    with Decoder(workers, Decoding(spec, DEFAULT_MAX_PIXELS)) as decoder:
        under_way: list[Ticket] = []
        ahead = iter(parts)
        for part in parts:
            for coming in islice(ahead, decoder.ahead - len(under_way)):
                under_way.append(decoder.submit([Job(_content(picture), b"") for picture in coming]))
            results = under_way.pop(0).result()
            if progress:
                progress(len(part))
            yield from zip(part, results, strict=True)


def _content(picture: Picture) -> Path | bytes:
    try:
        return picture.read() if isinstance(picture, Slice) else picture
    except OSError:
        return b""  # which the decoder calls empty
