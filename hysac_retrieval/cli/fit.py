"""``hysac fit``: a safety head for the vectors of an encoder that exists."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import FAILED_ITEMS, Command, print_json, tell_failed
from hysac_retrieval.cli.export import stages
from hysac_retrieval.cli.options import Place, gathered, json_option, place_options
from hysac_retrieval.cli.terminal import console
from hysac_retrieval.errors import MissingExtraError, SettingsError

if TYPE_CHECKING:
    from hysac_export.data.split import Stages
    from hysac_export.fit.encoders.base import VectorEncoder
    from hysac_export.fit.labels.notes import Notes
    from hysac_export.fit.run import Fitted
    from hysac_export.fit.scores import Labelled
    from hysac_retrieval.ingest import FailedItem

_FOLDER = "Folder of labels, of `hysac label` or where --label-with keeps its own  [default there: OUT-labels]"
_label_options = gathered(
    "labels",
    dict,
    click.option(
        "--policy",
        metavar="NAME|FILE",
        multiple=True,
        help="Policy in words: general, general-wide, school, workplace.",
    ),
    click.option("--safe", multiple=True, metavar="SOURCE", help="Safe samples; may be given several times."),
    click.option("--unsafe", multiple=True, metavar="SOURCE", help="Unsafe samples, likewise."),
    click.option("--labels", "folder", metavar="DIR", type=click.Path(path_type=Path), help=_FOLDER),
    click.option("--label-with", metavar="DETECTOR", help="Detector: opennsfw, nudenet or module:function."),
    click.option(
        "--pictures",
        multiple=True,
        metavar="SOURCE",
        help="Pictures for it to label, or without it for pseudo-labels by the policy; repeatable.",
    ),
    click.option("--vector", metavar="NAME", help="Vector of --from-collection; '' for one without a name."),
    click.option("--label-field", metavar="FIELD", help="Payload field of --from-collection with the label."),
    click.option("--unsafe-value", multiple=True, metavar="TEXT", help="Value of it that means unsafe."),
    click.option("--safe-value", multiple=True, metavar="TEXT", help="Value of it that means safe."),
    click.option(
        "--modality",
        type=click.Choice(["text", "image"]),
        default="image",
        show_default=True,
        help="What the vectors of --from-collection stand for.",
    ),
    click.option("--limit", type=click.IntRange(20), default=20_000, show_default=True, help="Points of it to take."),
)


@click.command("fit", cls=Command)
@click.option(
    "--encoder",
    metavar="KIND:NAME",
    help="Encoder: sentence-transformers:NAME|FOLDER, open_clip:MODEL/PRETRAINED, fastembed:NAME, module:function.",
)
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Bundle folder to write.")
@_label_options
@place_options(click.option("--from-collection", "collection", metavar="NAME", help="Collection with labelled points."))
@click.option("--vectors", is_flag=True, help="Write the head alone, for vectors that are encoded elsewhere.")
@click.option("--max-miss", type=click.FloatRange(0, 1, max_open=True), help="Most of what is unsafe that may pass.")
@click.option("--max-lost", type=click.FloatRange(0, 1, max_open=True), help="Most of what is safe that may be lost.")
@click.option("--name", help="Name of the model  [default: that of the folder]")
@click.option("--domain", default="", help="What the model knows, in words: 'photographs', 'product texts' …")
@click.option("--licence", default="", help="Licence of the encoder and the labels.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the cross-validation.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    encoder: str | None,
    out: Path,
    labels: dict[str, Any],
    place: Place,
    max_miss: float | None,
    max_lost: float | None,
    name: str | None,
    vectors: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Fit a safety head to an encoder, from labelled examples, in seconds and without a GPU.

    The result is a bundle as any other: index, attach, search and guard with it. A vector keeps its direction, so that
    what is safe is ranked as the encoder ranks it; its score alone decides how far from the origin it lies.

    Labels come from a policy in words, from samples (folders of images, text files, tables, as `hysac index` takes
    them), from a person (`hysac label`), from a detector, from the points of a collection, or from all of these
    together. About 100 of each kind make a start. Without an encoder the labels are those of a collection, and the head
    is all that the bundle holds.

    A detector labels pictures of your own; what it is not sure of stays without a label. Its labels are kept as they
    come, so that a run that ended in the middle goes on, and what a person has labelled stays as it is.

    What the fit is good for is printed and written to report.html in the bundle, from cross-validation: nothing is
    judged on what it was fitted to.

    \b
    hysac fit --encoder sentence-transformers:all-MiniLM-L6-v2 --policy general --out fitted
    hysac fit --encoder open_clip:ViT-B-32/laion2b_s34b_b79k --safe safe/ --unsafe unsafe/ --out fitted
    hysac fit --encoder fastembed:Qdrant/clip-ViT-B-32 --label-with opennsfw --pictures photos/ --out fitted
    hysac fit --from-collection photos --vector clip --label-field nsfw --url http://localhost:6333 --out fitted
    hysac-index attach --collection photos --from-vector clip --model fitted --url http://localhost:6333
    """
    for package in ("sklearn", "onnx", "yaml"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "fit", "hysac fit")
    from hysac_export.bundle.place import check_target
    from hysac_export.evaluation.calibrate import Wanted
    from hysac_export.fit.bundle import FitOptions
    from hysac_export.fit.encoders.open import open_encoder
    from hysac_export.fit.run import fit_bundle

    _expect_labels(labels, place, encoder)
    check_target(out, rest["overwrite"])
    with stages() as stage:
        opened = None if encoder is None else open_encoder(encoder)
        labels["folder"] = labels["folder"] or (Path(f"{out.resolve()}-labels") if labels["label_with"] else None)
        examples, told, failed = _gather(labels, place, opened, stage)
        wanted = Wanted(max_miss, max_lost)
        options = FitOptions(name or out.resolve().name, told, wanted, with_encoder=not vectors, **rest)
        fitted = fit_bundle(examples, out, options, stage, opened)
    _show(fitted, failed, as_json)
    if failed:
        ctx.exit(FAILED_ITEMS)


def _expect_labels(labels: dict[str, Any], place: Place, encoder: str | None) -> None:
    """Raise `SettingsError` if there is nothing to fit to, before an encoder is loaded."""
    texts = any(labels[name] for name in ("policy", "safe", "unsafe", "folder", "label_with"))
    if labels["label_with"] and not labels["pictures"]:
        raise SettingsError("a detector needs pictures", hint="Name some: --pictures photos/")
    if labels["pictures"] and not (labels["label_with"] or labels["policy"]):
        raise SettingsError("nothing says what the pictures are", hint="Give --label-with, or a --policy in words")
    if encoder is None and (texts or not place.collection):
        raise SettingsError("there is no encoder", hint="Name one by --encoder, or take vectors by --from-collection")
    if not texts and not place.collection:
        what = "Give --policy general, samples by --safe and --unsafe, --labels, or points by --from-collection"
        raise SettingsError("there are no labels", hint=what)
    if place.collection and (labels["vector"] is None or labels["label_field"] is None):
        message = "it is not known which vectors of the collection to take, and which field says what is unsafe"
        raise SettingsError(message, hint="Give --vector and --label-field")


def _gather(
    labels: dict[str, Any], place: Place, encoder: VectorEncoder | None, stage: Stages
) -> tuple[dict[Any, Labelled], str, list[FailedItem]]:
    """Return labelled examples by modality, what they are in words, and the items that could not be labelled."""
    from hysac_export.data.policy import read_policy
    from hysac_export.fit.encoders.base import no_modality
    from hysac_export.fit.labels.encoded import policy_examples, sampled_examples
    from hysac_export.fit.labels.notes import Notes
    from hysac_export.fit.labels.zeroshot import pseudo_examples
    from hysac_export.fit.scores import joined

    found: list[tuple[Any, Labelled]] = []
    told: list[str] = []
    for name in labels["policy"]:
        policy = read_policy(name)
        assert encoder is not None
        found.append(("text", policy_examples(policy, encoder, progress=stage(f"Encoding policy {name}", None))))
        told.append(f"policy {policy.name}")
    safe, unsafe = [*labels["safe"]], [*labels["unsafe"]]
    failed: list[FailedItem] = []
    if labels["folder"]:
        notes = Notes(labels["folder"])
        if labels["label_with"]:
            assert encoder is not None
            if "image" not in encoder.modalities:
                raise no_modality(encoder.name, "image")
            words, failed = _detected(labels, notes, stage)
            told.append(words)
        kept = notes.samples()
        if not any(kept):
            raise SettingsError(f"there are no labels in {notes.folder}", hint="Make some: hysac label")
        safe, unsafe = safe + kept[0], unsafe + kept[1]
    if safe or unsafe:
        assert encoder is not None
        samples = sampled_examples(safe, unsafe, encoder, stage("Encoding samples", None))
        found += samples.items()
        told += [f"{len(part)} {modality} samples" for modality, part in samples.items()]
    if place.collection:
        part = _of_collection(labels, place, stage)
        found.append((labels["modality"], part))
        told.append(f"{len(part)} points of collection {place.collection}")
    if labels["pictures"] and not labels["label_with"]:
        if any(modality == "image" for modality, _ in found):
            what = "pseudo-labels are for want of labels, and some pictures have labels"
            raise SettingsError(what, hint="Leave out --pictures, or the labelled ones")
        assert encoder is not None
        sentences = joined(found)["text"]
        guessed, failed = pseudo_examples(sentences, labels["pictures"], encoder, stage("Encoding pictures", None))
        found.append(("image", guessed))
        told.append(f"{len(guessed)} pictures with pseudo-labels by the encoder's own similarity")
    return joined(found), ", ".join(told), failed


def _detected(labels: dict[str, Any], notes: Notes, stage: Stages) -> tuple[str, list[FailedItem]]:
    """Have a detector label pictures; return what it did in words, and what failed."""
    from hysac_export.fit.labels.detected import label_pictures
    from hysac_retrieval.encoder.detectors import open_detector

    detector = open_detector(labels["label_with"])
    done = label_pictures(labels["pictures"], detector, notes, stage(f"Labelling with {detector.name}", None))
    click.echo(f"{detector.name}: {done.unsafe} unsafe, {done.safe} safe, {done.unsure} left without a label", err=True)
    licence = f" ({detector.licence})" if detector.licence else ""
    return (
        f"pictures labelled by {detector.name}{licence}: the figures say how far the head agrees with it",
        done.failed,
    )


def _of_collection(labels: dict[str, Any], place: Place, stage: Stages) -> Labelled:
    from hysac_export.fit.labels.collection import labelled_vectors
    from hysac_export.fit.scores import Labelled
    from hysac_retrieval.ingest.sources.vectors import StoredVectors
    from hysac_retrieval.stores import opening

    with opening(place.connection(), keep=False) as (store, _):
        found = labelled_vectors(
            store,
            place.collection,
            StoredVectors(labels["vector"], labels["modality"]),
            labels["label_field"],
            unsafe=labels["unsafe_value"],
            safe=labels["safe_value"],
            limit=labels["limit"],
            progress=stage("Reading vectors", None),
        )
    return Labelled.of(found.vectors, found.unsafe, names=[f"point {identity}" for identity in found.ids])


def _show(fitted: Fitted, failed: list[FailedItem], as_json: bool) -> None:
    from hysac_export.evaluation.table import Table

    tell_failed(failed, as_json)
    if as_json:
        print_json(fitted.to_dict() | {"failed": [{"item": one.item, "error": one.error} for one in failed]})
        return
    rows: list[tuple[str, ...]] = []
    for modality, part in fitted.measured.items():
        if part.pseudo:
            rows.append((modality, str(part.unsafe), str(part.safe), "–", "–", "–", "pseudo-labels"))
            continue
        shares = [f"{figure.value:.1%} ({figure.low:.1%}–{figure.high:.1%})" for figure in (part.missed, part.lost)]
        auc = f"{part.auc.value:.3f} ({part.auc.low:.3f}–{part.auc.high:.3f})"
        rows.append((modality, str(part.unsafe), str(part.safe), auc, *shares, part.score))
    header = ("", "unsafe", "safe", "AUC", "missed", "lost", "score")
    out = console()
    out.print(Table(f"Fit of {fitted.bundle.manifest.name}", header, tuple(rows), labels=1).rich())
    for sentence in fitted.verdicts:
        out.print(sentence)
    click.echo(f"Wrote {fitted.bundle.path} in {fitted.seconds:.0f} s, fingerprint {fitted.bundle.fingerprint}")
    click.echo(f"Report: {fitted.bundle.path / 'report.html'}")
