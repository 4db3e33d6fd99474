"""Pseudo-labels of pictures: what an encoder of texts and pictures holds them for, by the words of a policy.

A picture lies nearer to the unsafe sentences of a policy or to the safe ones; by how much is its margin, the largest
cosine with one of those less the largest with one of these. The clearer half of either side gets a pseudo-label, the
rest none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hysac_export.data.split import Progress
from hysac_export.fit.encoders.base import VectorEncoder
from hysac_export.fit.labels.candidates import Candidates, encoded, of_sources
from hysac_export.fit.scores import FEWEST, Labelled, Vectors
from hysac_retrieval.errors import SettingsError, TrainingError
from hysac_retrieval.ingest import FailedItem

CLEARER = 0.5
"""Share of either side that is clear."""
_AT_ONCE = 1024


def pseudo_examples(
    sentences: Labelled, sources: Sequence[str | Path], encoder: VectorEncoder, progress: Progress | None = None
) -> tuple[Labelled, list[FailedItem]]:
    """Return the pictures of sources that are clearly unsafe or safe by similarity, and those that cannot be encoded.

    Args:
        sentences: Those of a policy, by the same encoder.
        sources: Pictures, of every kind that can be indexed.
        encoder: An encoder of texts and pictures into one space.
        progress: Told how many pictures are encoded.

    Raises:
        SettingsError: The encoder does not read both, or there are no pictures.
        TrainingError: Too few pictures are clearly unsafe, or clearly safe.
    """
    if {*encoder.modalities} != {"text", "image"}:
        what = f"{encoder.name} reads {' and '.join(encoder.modalities)}s only, so that words say nothing of pictures"
        raise SettingsError(what, hint="Give an encoder of both, or label the pictures: hysac label, --label-with")
    listed = of_sources(sources)
    pictures = [item for item in listed.items if item.modality == "image"]
    if not pictures:
        raise SettingsError(f"there are no pictures in {', '.join(map(str, sources))}", hint="Name folders of pictures")
    found = encoded(Candidates(pictures, listed.failed), encoder, progress)
    vectors = np.stack([item.vector for item in found.items if item.vector is not None])
    unsafe, safe = clear(margins(vectors, sentences))
    for kind, rows in (("unsafe", unsafe), ("safe", safe)):
        if len(rows) < FEWEST:
            what = f"of {len(pictures)} pictures {len(rows)} are clearly {kind} by similarity, {FEWEST} are needed"
            raise TrainingError(what, hint="Give more pictures, such as are found with the words of the policy")
    rows = np.concatenate([unsafe, safe])
    labels = np.repeat([True, False], [len(unsafe), len(safe)])
    names = [found.items[row].origin for row in rows]
    return replace(Labelled.of(vectors[rows], labels, names=names), pseudo=True), found.failed


def margins(vectors: Vectors, sentences: Labelled) -> NDArray[np.float32]:
    """Return for pictures, (n, k), how much nearer they are to an unsafe sentence than to a safe one, (n,)."""
    words = [sentences.vectors[sentences.unsafe].T, sentences.vectors[~sentences.unsafe].T]
    parts = [vectors[start : start + _AT_ONCE] for start in range(0, len(vectors), _AT_ONCE)]
    return np.concatenate([(part @ words[0]).max(axis=1) - (part @ words[1]).max(axis=1) for part in parts])


def clear(found: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows whose margins, (n,), are clearly those of something unsafe, and clearly of something safe."""
    order = np.argsort(-found, kind="stable")
    unsafe, safe = order[found[order] > 0], order[found[order] < 0][::-1]
    return unsafe[: int(len(unsafe) * CLEARER)], safe[: int(len(safe) * CLEARER)]
