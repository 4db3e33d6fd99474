"""Models under evaluation: bundles and run folders, each with its safety profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hysac_export.config import TrainConfig
from hysac_export.data.split import DrawnSplit, Progress, Stages, draw_split, unseen
from hysac_export.evaluation.bootstrap import Bootstrap, Figure
from hysac_export.evaluation.calibrate import calibrate
from hysac_export.evaluation.classification import classes_of, classification_figures, zero_shot_figures
from hysac_export.evaluation.entailment import calibrate_entailment, entailment_figures
from hysac_export.evaluation.metrics import metrics, retrievals
from hysac_export.evaluation.protocol import CalibrationRadii, calibration_radii, published_figures
from hysac_export.evaluation.texts import EncodedPairs, validation_pairs
from hysac_export.model.encoded import EncodedSplit, Encodes, curvature_of, encode_drawn, radii_of
from hysac_export.model.retrieval import Retrieval
from hysac_retrieval.encoder.bundle import bundled_models
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.entailment import Entailment
from hysac_retrieval.errors import MissingExtraError, TrainingError
from hysac_retrieval.safety.profile import RadiusStats, SafetyProfile

RUN_FILES = ("config.json", "model.safetensors")
"""Files that tell a run folder from a bundle."""

Draw = Callable[[str, int, int, int, Progress | None], DrawnSplit]
"""Draws at most n quadruplets: name of the split, n, seed, side of the pictures, what is called as they are done."""


@dataclass(frozen=True)
class Subject:
    """A model to evaluate, `source` its origin in words, `size` the side of its images in pixels.

    Scores of texts are calibrated on those of the `policy` that the model learned from, if it did. A
    Euclidean model has no curvature and no profile. One whose calibration failed has no profile either, but `radii`
    of the calibration set by group, and the reason in `uncalibrated`. `config` is that of training on files,
    `entailment` the calibration of the cones.
    """

    name: str
    encoder: Encodes
    curvature: float | None
    size: int
    profile: SafetyProfile | None
    source: str
    config: TrainConfig | None = None
    radii: CalibrationRadii | None = None
    policy: str | None = None
    uncalibrated: str = ""
    entailment: Entailment | None = None


@dataclass(frozen=True)
class Evaluation:
    """One model on one split: the points, the searches and the figures."""

    subject: Subject
    split: str
    encoded: EncodedSplit
    found: dict[str, Retrieval]
    figures: dict[str, Figure]


def is_run(model: str | Path) -> bool:
    """Whether a model is a run folder of `hysac train` rather than a bundle."""
    return all((Path(model) / name).is_file() for name in RUN_FILES)


def load_subject(model: str | Path) -> Subject:
    """Load a bundle (by name, folder or hub id) or a run folder, which has no profile yet: see `with_profile`.

    Raises:
        BundleError, TrainingError: The bundle or the run cannot be used.
        MissingExtraError: A run folder needs torch, which is not installed.
    """
    if model in bundled_models() or not is_run(model):  # no folder in the way replaces a bundled model
        return bundle_subject(Encoder.load(model))
    try:
        from hysac_export.training.run import TrainedRun
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train", f"reading the run folder {model}") from error
    run = TrainedRun.load(model)
    config = run.config
    source = f"run {config.name}, seed {config.seed}, {config.total_steps} steps of {config.batch_size}"
    files = config if config.data.train else None
    policy = None if config.texts is None else config.texts.policy
    return Subject(config.name, run, curvature_of(run), config.model.image.size, None, source, files, policy=policy)


def bundle_subject(encoder: Encoder) -> Subject:
    """Make a subject of a loaded bundle."""
    source = f"bundle {encoder.name}, fingerprint {encoder.fingerprint}"
    config = _trained(encoder.bundle.manifest.training.get("config"))
    files = config if config is not None and config.data.train else None
    policy = config.texts.policy if config is not None and config.texts is not None else None
    return Subject(
        encoder.name,
        encoder,
        encoder.curvature,
        encoder.image_spec.size,
        encoder.safety,
        source,
        files,
        policy=policy,
        entailment=encoder.entailment,
    )


def validation_split(subject: Subject, n: int = 1000, seed: int = 0, progress: Progress | None = None) -> DrawnSplit:
    """Draw at most n quadruplets to calibrate a model on: of the scenes, or of the files that it was trained with."""
    if subject.config is None:
        return draw_split("validation", n, seed, subject.size, progress)
    from hysac_export.data.feed import open_feed  # torch

    return open_feed(subject.config).validation(n, seed, progress)


def encode_validation(
    subject: Subject, n: int = 1000, seed: int = 0, stages: Stages = unseen
) -> tuple[EncodedSplit, float]:
    """Encode the quadruplets of `validation_split`; with the model's curvature (`TrainingError`: it is Euclidean)."""
    if subject.curvature is None:
        message = f"{subject.name} is Euclidean: it has no radius to calibrate"
        raise TrainingError(message, hint="Give a hyperbolic model")
    drawn = validation_split(subject, n, seed, stages(f"{subject.name}: drawing", n))
    return encode_drawn(subject.encoder, drawn, stages(f"{subject.name}: validation", 2 * n)), subject.curvature


def calibration_texts(subject: Subject) -> EncodedPairs | None:
    """Pairs of plain texts that scores are calibrated on in place of captions, if the model has learned from some."""
    return validation_pairs(subject.encoder, subject.policy)


def with_profile(subject: Subject, n: int = 1000, stages: Stages = unseen) -> Subject:
    """Calibrate a hyperbolic model that has no profile yet, on n quadruplets of the validation split.

    A model whose radii say nothing about safety comes back without one: that is a result too. Its radii are kept, and
    why it has no profile stands in `uncalibrated`.
    """
    if subject.profile is not None or subject.curvature is None:
        return subject
    encoded, curvature = encode_validation(subject, n, stages=stages)
    radii = {group: RadiusStats.of(found) for group, found in radii_of(encoded, curvature).items()}
    subject = replace(subject, radii=radii, entailment=calibrate_entailment(encoded, curvature))
    try:
        return replace(subject, profile=calibrate(encoded, curvature, texts=calibration_texts(subject)))
    except TrainingError as error:
        return replace(subject, uncalibrated=str(error))


def baseline_folders() -> list[Path]:
    """Run folders of the bundled model's baselines; they are in the project's repository, not in the package."""
    folder = Path(__file__).resolve().parents[3] / "benchmarks" / "baselines"
    return sorted(filter(is_run, folder.glob("*")))


def named_apart(subjects: Iterable[Subject]) -> list[Subject]:
    """Number models of the same name."""
    seen: dict[str, int] = {}
    renamed = []
    for subject in subjects:
        seen[subject.name] = count = seen.get(subject.name, 0) + 1
        renamed.append(subject if count == 1 else replace(subject, name=f"{subject.name} ({count})"))
    return renamed


def evaluate_subjects(
    subjects: Sequence[Subject],
    splits: Iterable[str],
    n: int = 1000,
    seed: int = 0,
    *,
    resamples: int = 1000,
    stages: Stages = unseen,
    draw: Draw = draw_split,
) -> list[Evaluation]:
    """Evaluate models on the same n quadruplets of each split, splits outermost; the bootstrap has the same seed."""
    results = []
    named = [classes_of(subject.encoder) for subject in subjects]
    for split in splits:
        drawn: dict[int, DrawnSplit] = {}
        for subject, classes in zip(subjects, named, strict=True):
            if subject.size not in drawn:
                drawn[subject.size] = draw(split, n, seed, subject.size, stages(f"{split}: drawing", n))
            encoded = encode_drawn(subject.encoder, drawn[subject.size], stages(f"{split}: {subject.name}", 2 * n))
            evaluation = measured(subject, split, encoded, resamples=resamples, seed=seed)
            boot = Bootstrap(len(encoded), resamples, seed)
            sanity = zero_shot_figures(classes, encoded, drawn[subject.size], subject.curvature, boot)
            results.append(replace(evaluation, figures=evaluation.figures | sanity))
    return results


def measured(
    subject: Subject, split: str, encoded: EncodedSplit, *, resamples: int = 1000, seed: int = 0
) -> Evaluation:
    """Measure everything that the points of a split, encoded before, say about a model."""
    curvature, profile = subject.curvature, subject.profile
    found = retrievals(encoded, curvature, profile)
    figures = metrics(encoded, curvature, profile, resamples=resamples, seed=seed, found=found)
    boot = Bootstrap(len(encoded), resamples, seed)
    radii = calibration_radii(profile) if profile is not None else subject.radii
    figures |= published_figures(encoded, curvature, radii, profile, boot)
    if curvature is not None:
        figures |= classification_figures(encoded, curvature, profile, boot)
        figures |= entailment_figures(encoded, curvature, subject.entailment, boot)
    return Evaluation(subject, split, encoded, found, figures)


def _trained(config: Any) -> TrainConfig | None:
    """The config in a bundle's provenance, if it is one."""
    try:
        return TrainConfig.model_validate(config)
    except ValidationError:  # provenance is free form
        return None
