"""The published bounds of a checkpoint, ``hysac_bounds.json``, as a safety profile.

The file holds radii of four groups, S safe texts, V safe images, U unsafe texts and G unsafe images: of each the 5th
and 95th percentile (``low_05``, ``up_95``) and the mean (``avg``). The published code reads the 95th percentiles of S
and V, its evaluation the others; some may be missing.

No calibration can be fitted to so little. The *default* is the one that samples with these percentiles would give: 1000
radii a group at the quantiles of a normal distribution around the mean, each half stretched so that the 5th and 95th
percentiles are those of the file. It is as good as that assumption, and says so in its `source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Self

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hysac_export.data.split import PAIRS, Group
from hysac_export.evaluation.calibrate import MAX_MISS
from hysac_export.evaluation.samples import calibrate_radii, described, sampled
from hysac_export.model.encoded import Floats
from hysac_retrieval.errors import TrainingError
from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, SafetyProfile
from hysac_retrieval.types import Modality

LETTERS: Mapping[Group, str] = {"safe_text": "S", "safe_image": "V", "unsafe_text": "U", "unsafe_image": "G"}
SAMPLES = 1000
DERIVED = "DEFAULT, derived from the published percentiles as if radii were normal, calibrated on no sample"
_Z95 = NormalDist().inv_cdf(0.95)


class GroupBounds(BaseModel):
    """Radii of one group: 5th and 95th percentile, and mean (``avg`` or ``mean``)."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    low_05: float | None = Field(None, ge=0)
    up_95: float | None = Field(None, ge=0)
    avg: float | None = Field(None, ge=0, validation_alias=AliasChoices("avg", "mean"))

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        given = [value for value in (self.low_05, self.avg, self.up_95) if value is not None]
        if given != sorted(given):
            raise ValueError(f"low_05, avg and up_95 are {given}; expected them in ascending order")
        return self

    @property
    def centre(self) -> float | None:
        """The mean, or the middle of the percentiles."""
        if self.avg is None and self.low_05 is not None and self.up_95 is not None:
            return (self.low_05 + self.up_95) / 2
        return self.avg

    @property
    def lacking(self) -> str | None:
        """Fields that are missing to say where and how wide the group lies; None if that is known."""
        if self.low_05 is None and self.up_95 is None:
            return "up_95" if self.avg is not None else "avg and up_95"
        return "avg" if self.centre is None else None

    def radii(self) -> Floats:
        """`SAMPLES` radii with these percentiles, ascending (`TrainingError`: something is lacking)."""
        centre = self.centre
        if centre is None or self.lacking is not None:
            raise TrainingError(f"the bounds of a group lack {self.lacking}", hint="Add it, or give samples")
        # A half that is not given mirrors the other.
        below = centre - self.low_05 if self.low_05 is not None else (self.up_95 or centre) - centre
        above = self.up_95 - centre if self.up_95 is not None else below
        z = np.array([NormalDist().inv_cdf((i + 0.5) / SAMPLES) for i in range(SAMPLES)]) / _Z95
        return np.maximum(centre + z * np.where(z < 0, below, above), 0.0)

    def published(self, stats: RadiusStats, *, derived: bool) -> RadiusStats:
        """Statistics with the published percentiles in place of the samples'.

        If they are `derived` from `radii`, the mean is the published one as well, and nothing was counted.
        """
        given = {p: value for p, value in ((5, self.low_05), (95, self.up_95)) if value is not None}
        # The 95th is what the published traversal compares with.
        percentiles = {95: stats.percentiles[95]} | given if given else stats.percentiles
        figures = {"count": 0, "mean": self.centre} if derived else {}
        return stats.model_copy(update={"percentiles": dict(sorted(percentiles.items())), **figures})


class Bounds(BaseModel):
    """Contents of ``hysac_bounds.json``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    S: GroupBounds = GroupBounds()
    V: GroupBounds = GroupBounds()
    U: GroupBounds = GroupBounds()
    G: GroupBounds = GroupBounds()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file (`TrainingError`: it cannot be read, or its values are no radii)."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise TrainingError(
                f"{path} does not hold the bounds of a HySAC model: {error}; expected an object like "
                '{"S": {"low_05": 0.9, "avg": 1.0, "up_95": 1.1}, "V": …, "U": …, "G": …}'
            ) from error

    def of(self, group: Group) -> GroupBounds:
        """Bounds of one group."""
        bounds: GroupBounds = getattr(self, LETTERS[group])
        return bounds

    def lacking(self, modality: Modality) -> list[str]:
        """Fields that are missing to say where safe and unsafe points of a modality lie, such as ``U.avg``."""
        return [f"{LETTERS[group]}.{name}" for group in PAIRS[modality] if (name := self.of(group).lacking) is not None]


@dataclass(frozen=True)
class Calibration:
    """A safety profile, and the modalities whose scores are derived from the published percentiles."""

    profile: SafetyProfile
    derived: tuple[Modality, ...]


def published_profile(
    bounds: Bounds, radii: Mapping[Group, Floats] | None = None, *, max_miss: float = MAX_MISS
) -> Calibration:
    """The safety profile of an imported checkpoint.

    Percentiles are the published ones where there are any. Scores, threshold and boundary come from samples, or from
    the bounds for a modality of which there are none.

    `radii` of samples are by group, of a modality both groups or neither; `max_miss` is as in `calibrate_radii`.

    Raises:
        SettingsError: There are too few samples, or samples of one side only.
        TrainingError: The bounds lack what the samples do not tell, or the radius says nothing about safety.
    """
    known = dict(radii or {})
    found = sampled(known)
    derived = tuple(modality for modality in PAIRS if modality not in found)
    if lacking := {modality: names for modality in derived if (names := bounds.lacking(modality))}:
        missing = ", ".join(name for names in lacking.values() for name in names)
        kinds = " and ".join(f"{modality}s" for modality in lacking)
        message = f"the bounds do not tell how safe and unsafe {kinds} differ: {missing} missing"
        hint = f"Give safe and unsafe {kinds} with --safe and --unsafe, or add the figures to hysac_bounds.json"
        raise TrainingError(message, hint=hint)
    known |= {group: bounds.of(group).radii() for modality in derived for group in PAIRS[modality]}
    fitted = calibrate_radii(known, max_miss=max_miss)
    boundary = bounds.S.centre if "text" in derived else fitted.text.boundary
    parts: dict[str, ModalityProfile] = {}
    notes = []
    for modality, pair in PAIRS.items():
        part, is_derived = fitted.of(modality), modality in derived
        safe, unsafe = (
            bounds.of(group).published(stats, derived=is_derived)
            for group, stats in zip(pair, (part.safe, part.unsafe), strict=True)
        )
        parts[modality] = part.model_copy(update={"safe": safe, "unsafe": unsafe, "boundary": boundary})
        notes.append(f"{modality}: {DERIVED if is_derived else described(known, modality)}")
    measured = {modality: shares for modality, shares in fitted.rates.items() if modality not in derived}
    source = f"{'; '.join(notes)}; boundary at the mean radius of safe texts; miss ≤ {max_miss:.2%}"
    try:
        profile = SafetyProfile.model_validate(
            {name: part.model_dump() for name, part in parts.items()}
            | {"threshold": fitted.threshold, "source": source, "rates": measured}
        )
    except ValidationError as error:
        raise TrainingError(f"bounds and samples give no valid safety profile: {error}") from error
    return Calibration(profile, derived)
