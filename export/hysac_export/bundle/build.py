"""Export of a run or a bundle, as `hysac export` does it: calibrate, write, compress, measure what that costs."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hysac_export.bundle.compress import Precision, compress_bundle
from hysac_export.bundle.onnx import Weights, check_hyperbolic, export_bundle, round_weights
from hysac_export.bundle.place import check_target
from hysac_export.bundle.price import Probes, drawn_probes, price, sample_probes
from hysac_export.data.feed import open_feed
from hysac_export.data.split import GROUPS, Progress, Stages
from hysac_export.evaluation.calibrate import MAX_MISS, calibrate
from hysac_export.evaluation.entailment import calibrate_entailment
from hysac_export.evaluation.metrics import metrics
from hysac_export.evaluation.subjects import bundle_subject, is_run, validation_split
from hysac_export.evaluation.texts import validation_pairs
from hysac_export.model.encoded import encode_drawn
from hysac_export.training.run import METRICS, TrainedRun, read_metrics
from hysac_retrieval.encoder.bundle import MANIFEST_NAME, Bundle
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import SettingsError, SourceError, TrainingError
from hysac_retrieval.lift import PaddedLift
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.types import MODALITIES

_WORD = re.compile(r"[^\W\d_]+")

FOREIGN = 4.0
"""A given profile belongs to another model if it misses more than so many times what calibration allows by default:
on the validation split, hundreds of points of which none was chosen, that is no accident."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of `hysac export`; name and description default to those of the run or of the bundle.

    `weights` are how those of an uncompressed bundle are stored; `static` fixes the ranges of int8 activations on a
    quarter of the samples, which are `safe` and `unsafe` sources or n validation quadruplets; `safety` is a profile to
    take instead of calibrating a run, `metrics` are JSON-serialisable test metrics to put along.
    """

    name: str | None = None
    description: str | None = None
    licence: str = ""
    weights: Weights = "float16"
    precision: Precision = "fp32"
    static: bool = False
    safe: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    safety: SafetyProfile | None = None
    metrics: Any = None
    n: int = 1000
    overwrite: bool = False


def export_model(model: str, out: Path, options: ExportOptions, stages: Stages) -> Bundle:
    """Write a bundle of a run folder, or a compressed one of a bundle (a folder, a bundled name or a hub id).

    Raises:
        SettingsError: The options do not fit each other or the model, or something is at `out`.
        TrainingError: The run, or the bundle, cannot be exported.
        BundleError: The bundle cannot be read, or the graphs do not reproduce the model.
    """
    check_target(out, options.overwrite)
    plain = options.precision == "fp32"
    if (options.static and options.precision != "int8") or (plain and (options.safe or options.unsafe)):
        raise SettingsError("--static, --safe and --unsafe go with a compressed --precision, --static with int8")
    folder = Path(model)
    if is_run(folder) or (folder.is_dir() and not (folder / MANIFEST_NAME).is_file()):
        if plain:
            return export_run(folder, out, options, stages, options.weights)
        with tempfile.TemporaryDirectory(prefix="hysac-export-") as work:
            return compress(export_run(folder, Path(work) / "fp32", options, stages, "float32"), out, options, stages)
    if plain:
        raise SettingsError(f"{model} is a bundle already", hint="Compress it by --precision fp16 or int8")
    if options.safety is not None or options.metrics is not None or options.licence:
        raise SettingsError("--safety, --metrics and --licence go with a run; a compressed bundle has its source's")
    return compress(Bundle.load(model), out, options, stages)


def export_run(run: Path, out: Path, options: ExportOptions, stages: Stages, weights: Weights) -> Bundle:
    """Write the bundle of a run in float32; see `export_model`.

    The safety profile, the cones, the lift and the metrics are computed on the validation split, after the weights have
    been rounded to what the bundle stores; the scores of texts, where some were learned from, on that of their policy.
    """
    trained = TrainedRun.load(run)
    check_hyperbolic(trained.model)
    if weights == "float16":
        round_weights(trained.model)
    config, feed = trained.config.model, open_feed(trained.config)
    drawn = feed.validation(options.n, 0, stages("Drawing", options.n))
    encoded = encode_drawn(trained, drawn, stages("Encoding", 2 * options.n))
    policy = None if trained.config.texts is None else trained.config.texts.policy
    texts = validation_pairs(trained, policy)
    profile = options.safety or calibrate(encoded, trained.curvature, texts=texts)
    figures = {key: figure.value for key, figure in metrics(encoded, trained.curvature, profile).items()}
    if options.safety is not None:
        _check_profile(figures, profile)
    points = np.concatenate([getattr(encoded, group) for group in GROUPS])
    return export_bundle(
        trained.model,
        trained.tokenizer,
        safety=profile,
        out=out,
        name=options.name or trained.config.name,
        text=trained.text_spec,
        mean=trained.config.model.image.mean,
        std=trained.config.model.image.std,
        lift=PaddedLift.fit(points, trained.curvature),
        entailment=calibrate_entailment(encoded, trained.curvature),
        # Trained towers know more words than this training has shown them.
        known_words=None if config.open_clip or config.text.pretrained else words_of(feed.captions()),
        training=_provenance(trained, run),
        metrics={"validation": figures} | ({} if options.metrics is None else {"test": options.metrics}),
        description=options.description or "",
        licence=options.licence,
        weights=weights,
        overwrite=options.overwrite,
    )


def words_of(captions: Iterable[str]) -> list[str]:
    """Return, in order, the words that are in more than one caption, in lower case."""
    counts = Counter(word for text in captions for word in set(_WORD.findall(text.lower())))
    return sorted(word for word, count in counts.items() if count > 1)


def compress(source: Bundle, out: Path, options: ExportOptions, stages: Stages) -> Bundle:
    """Write a compressed bundle and note what compression costs, on samples or on the validation split."""
    before = Encoder(source, device="cpu")
    probes = _probes(before, options, stages("Reading samples", None))
    ranges, compared = probes.split() if options.static else (None, probes)
    advance = stages("Compressing and comparing", 2 * sum(len(rows) for rows in compared.inputs.values()))
    return compress_bundle(
        source,
        out,
        options.precision,
        inputs=ranges,
        price=lambda made: price(before, Encoder(made, device="cpu"), compared, advance),
        name=options.name,
        description=options.description,
        overwrite=options.overwrite,
    )


def _probes(encoder: Encoder, options: ExportOptions, progress: Progress | None) -> Probes:
    if options.safe or options.unsafe:
        return sample_probes(encoder, options.safe, options.unsafe)
    subject = bundle_subject(encoder)
    try:
        drawn = validation_split(subject, options.n, 0, progress)
    except (SourceError, TrainingError) as error:
        raise SettingsError(error.message, hint="Give samples to compare on by --safe and --unsafe") from error
    return drawn_probes(encoder, drawn, "drawn scenes" if subject.config is None else "the files it was trained with")


def _check_profile(figures: Mapping[str, float], profile: SafetyProfile) -> None:
    """Refuse a profile under which much of what is unsafe passes for safe."""
    missed = {modality: 1 - figures[f"above.unsafe_{modality}"] for modality in MODALITIES}
    if max(missed.values()) > FOREIGN * MAX_MISS:
        found = " and ".join(f"{share:.1%} of unsafe {modality}s" for modality, share in missed.items())
        raise SettingsError(
            f"by the given profile, of another model or of other data, {found} of the validation split count as safe "
            f"(threshold {profile.threshold}); expected at most {FOREIGN * MAX_MISS:.0%}",
            hint="Leave --safety out, and calibrate the bundle on your samples by `hysac calibrate BUNDLE --safe … "
            "--unsafe … --update`",
        )


def _provenance(trained: TrainedRun, run: Path) -> dict[str, Any]:
    """Config, last metrics and versions, to train the model again."""
    rows = read_metrics(run / METRICS) if (run / METRICS).is_file() else []
    return {
        "config": trained.config.model_dump(mode="json"),
        "last": rows[-1] if rows else {},
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "versions": {package: version(package) for package in ("torch", "open_clip_torch", "hysac-retrieval")},
    }
