"""Labelled examples from a policy in words, and from samples in files, by way of an encoder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hysac_export.data.policy import Policy, Split
from hysac_export.data.split import Progress
from hysac_export.evaluation.samples import read_samples
from hysac_export.fit.encoders.base import VectorEncoder
from hysac_export.fit.scores import Labelled
from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.encoder.inputs import picture_counts
from hysac_retrieval.encoder.pictures import ImageSource
from hysac_retrieval.encoder.preprocess import load_image, preprocess
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.types import MODALITIES, Modality

_COUNTED = 1000
"""Pictures whose pixels are counted, at random where there are more: they are read once more for it."""


def policy_examples(
    policy: Policy, encoder: VectorEncoder, splits: Sequence[Split] | None = None, progress: Progress | None = None
) -> Labelled:
    """Encode the texts of a policy.

    Args:
        policy: See `read_policy`.
        encoder: An encoder of texts.
        splits: Splits to take; all by default, as what cross-validation says is said of sentences that were held out.
        progress: Told how many texts are encoded.
    """
    examples = [one for one in policy.examples() if splits is None or one.split in splits]
    return Labelled.of(
        encoder.text([one.text for one in examples], progress),
        [one.unsafe for one in examples],
        groups=[zlib.crc32(one.phrase.encode()) for one in examples],
        names=[one.text for one in examples],
        categories=[one.category for one in examples],
        pairs=[one.pair for one in examples],
    )


def sampled_examples(
    safe: Sequence[str | Path], unsafe: Sequence[str | Path], encoder: VectorEncoder, progress: Progress | None = None
) -> dict[Modality, Labelled]:
    """Encode samples of sources of every kind that can be indexed; an image's caption counts as a text.

    Raises:
        SettingsError: There are samples of one side only, or none.
        SourceError: A source cannot be read.
    """
    sides = [read_samples(safe), read_samples(unsafe)]
    found = dict[Modality, Labelled]()
    for modality in MODALITIES:
        parts = [side[modality] for side in sides]
        if modality not in encoder.modalities or not any(parts):
            continue
        if not all(parts):
            missing = "safe" if not parts[0] else "unsafe"
            raise SettingsError(f"there are no {missing} {modality}s among the samples", hint="Give both kinds")
        encode = encoder.text if modality == "text" else encoder.image
        items = [*parts[0], *parts[1]]
        names = [item if isinstance(item, str | Path) else "a picture" for item in items]
        found[modality] = Labelled.of(
            encode(items, progress),
            np.repeat([False, True], [len(part) for part in parts]),
            names=list(map(str, names)),
            counts=_counts(items, encoder.pixels) if modality == "image" and encoder.pixels else None,
        )
    if not found:
        what = " or ".join(f"{modality}s" for modality in encoder.modalities)
        raise SettingsError(f"the samples hold nothing that {encoder.name} reads: {what}", hint="Give others")
    return found


def _counts(pictures: Sequence[ImageSource], spec: ImageSpec) -> NDArray[np.float32]:
    some = np.random.default_rng(0).permutation(len(pictures))[:_COUNTED]
    return np.concatenate([picture_counts(preprocess(load_image(pictures[row]), spec)[None]) for row in sorted(some)])
