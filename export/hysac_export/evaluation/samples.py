"""Calibration on samples that somebody has labelled safe and unsafe, without twins.

`calibrate` needs quadruplets, whose safe and unsafe halves belong together, to choose its boundaries. Labelled samples
seldom come in such pairs. Scores and threshold are fitted to them in the same way; the boundary, which unsafe queries
are moved to, is the mean radius of the safe texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hysac_export.data.split import PAIRS, Group, Progress
from hysac_export.evaluation.calibrate import Wanted, fit_modality, with_thresholds
from hysac_export.model.encoded import Encodes, Floats, Points, in_parts
from hysac_retrieval import lorentz
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.ingest import FailedItem, Item, Listing, SourceOptions
from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, SafetyProfile
from hysac_retrieval.types import MODALITIES, Modality

MIN_SAMPLES = 20
"""Fewest samples of a group; hundreds are better."""
BATCH = 64


@dataclass(frozen=True)
class Samples:
    """Encoded samples: points of each group that there is, (n, d), and the curvature c of their space."""

    points: Mapping[Group, Points]
    curvature: float

    @property
    def radii(self) -> dict[Group, Floats]:
        """Radii of each group, (n,)."""
        return {group: lorentz.dist0(x.astype(np.float64), self.curvature) for group, x in self.points.items()}


def encode_samples(
    encoder: Encodes, safe: Sequence[str | Path], unsafe: Sequence[str | Path], progress: Progress | None = None
) -> Samples:
    """Read and encode samples, of sources of every kind that can be indexed; an image's caption counts as a text.

    Raises:
        SourceError: A source cannot be read.
        SettingsError: An item of a source cannot be read.
        InputError: An image cannot be decoded, or a text is empty.
    """
    points: dict[Group, Points] = {}
    for side, sources in enumerate((safe, unsafe)):
        for modality, every in read_samples(sources).items():
            if every:
                encode = encoder.encode_text if modality == "text" else encoder.encode_image
                points[PAIRS[modality][side]] = in_parts(encode, every, BATCH, progress)
    return Samples(points, encoder.curvature)


def read_samples(sources: Sequence[str | Path]) -> dict[Modality, list[Any]]:
    """Read samples by modality: texts, and images as paths or bytes; see `encode_samples`."""
    items = list(_items(sources))
    return {modality: [item.content for item in items if item.modality == modality] for modality in MODALITIES}


def calibrate_radii(
    radii: Mapping[Group, Floats],
    base: SafetyProfile | None = None,
    *,
    keep_boundary: bool = False,
    max_miss: float | None = None,
    max_lost: float | None = None,
) -> SafetyProfile:
    """Fit a safety profile to radii of samples by group, of a modality both groups or neither.

    `base` is the profile so far, kept for a modality without samples; without it there must be samples of both.
    `keep_boundary` keeps its boundary, too: where samples were chosen by their scores, their mean says nothing of safe
    texts.
    `max_miss` and `max_lost` choose the thresholds, see `Wanted`.

    Raises:
        SettingsError: There are too few samples, or samples of one side only; or no threshold is as wanted.
        TrainingError: Safe samples are not nearer to the origin than unsafe ones.
    """
    wanted, found = Wanted(max_miss, max_lost), sampled(radii)
    lacking = [modality for modality in MODALITIES if modality not in found]
    if not found or (lacking and base is None):
        raise SettingsError(f"there are no samples of {' or '.join(f'{m}s' for m in lacking)}", hint="Give some")
    kept = None if base is None or ("text" in found and not keep_boundary) else base.text.boundary
    boundary = float(radii["safe_text"].mean()) if kept is None else kept
    parts: dict[Modality, ModalityProfile] = {}
    for modality, (inner, outer) in PAIRS.items():
        if modality in found:
            safe, unsafe = radii[inner], radii[outer]
            slope, midpoint = fit_modality(safe, unsafe, modality, "Check that the two lists are not swapped")
            stats = {"safe": RadiusStats.of(safe), "unsafe": RadiusStats.of(unsafe)}
            parts[modality] = ModalityProfile(**stats, slope=slope, midpoint=midpoint, boundary=boundary)
        elif base is not None:
            parts[modality] = base.of(modality)
    notes = [f"{modality}: {described(radii, modality) or 'as before'}" for modality in MODALITIES]
    if lacking and base is not None:
        notes.append(f"before: {base.source}")
    source = f"{'; '.join(notes)}; boundary {'at the mean radius of safe texts' if kept is None else 'as before'}"
    known = {group: radii[group] for m in found for group in PAIRS[m]}
    return with_thresholds(parts, known, source, wanted, base)


def sampled(radii: Mapping[Group, Any]) -> tuple[Modality, ...]:
    """Modalities with safe and unsafe samples (`SettingsError`: there are samples of one side only, or too few)."""
    for modality, pair in PAIRS.items():
        counts = [len(radii.get(group, ())) for group in pair]
        if any(counts) and min(counts) < MIN_SAMPLES:
            message = f"there are {counts[0]} safe and {counts[1]} unsafe {modality}s"
            hint = f"Give at least {MIN_SAMPLES} of each, better hundreds, or no {modality}s at all"
            raise SettingsError(message, hint=hint)
    return tuple(modality for modality, pair in PAIRS.items() if pair[0] in radii)


def described(radii: Mapping[Group, Floats], modality: Modality) -> str:
    """The samples of a modality in words; empty if there are none."""
    safe, unsafe = PAIRS[modality]
    return f"{len(radii[safe])} safe and {len(radii[unsafe])} unsafe samples" if safe in radii else ""


def _items(sources: Sequence[str | Path]) -> Iterator[Item]:
    failed: list[FailedItem] = []
    with Listing([str(source) for source in sources], SourceOptions(index_captions=True)) as listing:
        for found in listing:
            if isinstance(found, Item):
                yield found
            else:
                failed.append(found)
    if failed:
        first = failed[0]
        raise SettingsError(f"{len(failed)} samples cannot be read, the first is {first.item}: {first.error}")
