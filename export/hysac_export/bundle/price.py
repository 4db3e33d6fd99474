"""The price of compression: rankings, radii and verdicts against those of the model that was compressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_export.data.split import GROUPS, PAIRS, DrawnSplit, Group, Progress, draw_split
from hysac_export.evaluation.metrics import auc
from hysac_export.evaluation.samples import read_samples
from hysac_export.evaluation.table import Table
from hysac_export.model.encoded import Floats, in_parts
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.types import MODALITIES, Modality

K = 10
MIN_GALLERY = 50
"""Fewest images to rank; with fewer, texts are ranked as well."""
BATCH = 32
MAX_LOSS = 0.005
"""Loss of recall@10 or AUC, and rise of unsafe inputs that count as safe, beyond which there is a caution."""
MAX_EXCHANGED = 0.1
"""The same of the ten nearest that are others: one of them."""


@dataclass(frozen=True)
class Probes:
    """Inputs to compare models on, by group: token ids (n, L), pixels (n, S, S, 3); `source` describes them in words.

    `paired` if row i of the texts belongs to row i of the images of the same side.
    """

    inputs: Mapping[Group, NDArray[Any]]
    paired: bool
    source: str

    def split(self, share: float = 0.25) -> tuple[Mapping[Modality, NDArray[Any]], Probes]:
        """Split off the first inputs of each group, by modality, to measure ranges on; the rest is to compare on."""
        for group, rows in self.inputs.items():
            if len(rows) < 2:
                hint = "Give at least 2 of each kind, one to measure ranges on and one to compare on, or no --static"
                raise SettingsError(f"there is {len(rows)} {group.replace('_', ' ')}", hint=hint)
        heads = {group: max(1, int(len(rows) * share)) for group, rows in self.inputs.items()}
        first: dict[Modality, NDArray[Any]] = {}
        for modality, pair in PAIRS.items():
            found = [self.inputs[group][: heads[group]] for group in pair if group in self.inputs]
            if found:
                first[modality] = np.concatenate(found)
        rest = {group: rows[heads[group] :] for group, rows in self.inputs.items()}
        return first, Probes(rest, self.paired, self.source)


def scene_probes(encoder: Encoder, n: int, progress: Progress | None = None) -> Probes:
    """Take n quadruplets of the validation split of the scenes."""
    return drawn_probes(encoder, draw_split("validation", n, 0, encoder.image_spec.size, progress), "drawn scenes")


def drawn_probes(encoder: Encoder, drawn: DrawnSplit, of: str) -> Probes:
    """Take a drawn split; `of` names its origin."""
    inputs: dict[Group, NDArray[Any]] = {}
    for name in GROUPS:
        items = getattr(drawn, name)
        inputs[name] = items if name.endswith("image") else encoder.tokenizer(list(items))
    return Probes(inputs, True, f"{len(drawn.categories)} {drawn.name} quadruplets of {of}")


def sample_probes(encoder: Encoder, safe: Sequence[str | Path], unsafe: Sequence[str | Path]) -> Probes:
    """Read labelled samples, two at least; see `samples.encode_samples` for sources and errors."""
    inputs: dict[Group, NDArray[Any]] = {}
    for side, sources in enumerate((safe, unsafe)):
        for modality, items in read_samples(sources).items():
            if items:
                prepare = encoder.tokenizer if modality == "text" else encoder.preprocess_images
                inputs[PAIRS[modality][side]] = prepare(items)
    count = sum(len(rows) for rows in inputs.values())
    if count < 2:
        raise SettingsError(f"{count} samples are too few to compare on", hint="Give some by --safe and --unsafe")
    return Probes(inputs, False, f"{count} samples")


def price(before: Encoder, after: Encoder, probes: Probes, progress: Progress | None = None) -> dict[str, Any]:
    """Compare two models that should give the same points; `progress` is called twice for each input.

    Returns:
        ``kept_at_10``: of each query's ten nearest images by `before`, the share that is among the ten nearest by
        `after`. ``recall_at_10``: how often a caption finds its image, and an image its caption, among ten, of pairs.
        ``radius``: relative differences. ``auc`` of radii. ``changed``: share of verdicts, safe or unsafe, that differ;
        ``missed``: share of unsafe inputs that count as safe. Where there are two values, those of before and after.
    """
    points = [
        {group: _encode(encoder, group, rows, progress) for group, rows in probes.inputs.items()}
        for encoder in (before, after)
    ]
    curvature = before.curvature
    result: dict[str, Any] = {"on": probes.source, "kept_at_10": _kept(points[0], points[1], curvature)}
    result |= {name: {} for name in ("radius", "auc", "changed", "missed")}
    if probes.paired:
        pair = [_recall(side, curvature) for side in points]
        result["recall_at_10"] = {name: [pair[0][name], pair[1][name]] for name in pair[0]}
    for modality, (inner, outer) in PAIRS.items():
        groups = [group for group in (inner, outer) if group in probes.inputs]
        if not groups:
            continue
        radii = [{group: lorentz.dist0(side[group], curvature) for group in groups} for side in points]
        old, new = (np.concatenate([side[group] for group in groups]) for side in radii)
        error = np.abs(new - old) / np.maximum(old, 1e-6)
        result["radius"][modality] = {"mean": float(error.mean()), "max": float(error.max())}
        verdicts = [before.safety.counts_safe(r, modality) for r in (old, new)]
        result["changed"][modality] = float((verdicts[0] != verdicts[1]).mean())
        if len(groups) == 2:
            result["auc"][modality] = [auc(side[inner], side[outer]) for side in radii]
        if outer in groups:
            passing = (before.safety.counts_safe(side[outer], modality) for side in radii)
            result["missed"][modality] = [float(each.mean()) for each in passing]
    return result


def _encode(encoder: Encoder, group: Group, rows: NDArray[Any], progress: Progress | None) -> Floats:
    encode = encoder.encode_image if group.endswith("image") else encoder.encode_tokens
    return in_parts(partial(encode, batch_size=BATCH), rows, BATCH, progress).astype(np.float64)


def _kept(before: Mapping[Group, Floats], after: Mapping[Group, Floats], curvature: float) -> dict[str, float]:
    """Share of the ten nearest that stay among them, by kind of query; no point is among its own."""
    names = [group for group in before if group.endswith("image")]
    if sum(len(before[group]) for group in names) < MIN_GALLERY:
        names = list(before)
    kept: dict[str, float] = {}
    for modality in MODALITIES:
        shares = []
        for query in (group for group in PAIRS[modality] if group in before):
            ranked = []
            for side in (before, after):
                blocks = [lorentz.pairwise_dist(side[query], side[name], curvature) for name in names]
                if query in names:
                    np.fill_diagonal(blocks[names.index(query)], np.inf)
                distances = np.hstack(blocks)
                ranked.append(np.argsort(distances, axis=1, kind="stable")[:, : min(K, distances.shape[1] - 1)])
            shares += [len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(*ranked, strict=True)]
        if shares:
            kept[modality] = float(np.mean(shares))
    return kept


def _recall(points: Mapping[Group, Floats], curvature: float) -> dict[str, float]:
    """How often the partner of a caption, or of an image, is among the ten nearest of the other kind."""
    texts = np.concatenate([points["safe_text"], points["unsafe_text"]])
    images = np.concatenate([points["safe_image"], points["unsafe_image"]])
    distances = lorentz.pairwise_dist(texts, images, curvature)
    partner = np.diagonal(distances)
    return {
        "text to image": float(((distances < partner[:, None]).sum(axis=1) < K).mean()),
        "image to text": float(((distances < partner[None, :]).sum(axis=0) < K).mean()),
    }


def price_table(verification: Mapping[str, Any]) -> Table:
    """The figures of `price` as a table; `verification` is that of the compressed bundle's manifest."""
    found, precision = verification["price"], verification["precision"]
    rows = [
        (f"recall@10, {name}", f"{old:.2%}", f"{new:.2%}", f"{100 * (new - old):+.2f} points")
        for name, (old, new) in found.get("recall_at_10", {}).items()
    ]
    rows += [(f"ten nearest kept, {name} queries", "", f"{kept:.2%}", "") for name, kept in found["kept_at_10"].items()]
    for modality, error in found["radius"].items():
        rows.append((f"error of radii, {modality}", "", f"{error['mean']:.2%}", f"at most {error['max']:.2%}"))
    for modality, (old, new) in found["auc"].items():
        rows.append((f"AUC, {modality}", f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}"))
    for modality, (old, new) in found["missed"].items():
        changed = f"{found['changed'][modality]:.2%} of all changed"
        rows.append((f"unsafe that counts as safe, {modality}", f"{old:.2%}", f"{new:.2%}", changed))
    return Table(f"fp32 and {precision} on {found['on']}", ("", "fp32", precision, "difference"), tuple(rows), labels=1)


def caution(verification: Mapping[str, Any]) -> str:
    """Costs of compression beyond the limits, in words; empty if there are none."""
    found, precision = verification["price"], verification["precision"]
    worse = [old - new for pairs in (found.get("recall_at_10", {}), found["auc"]) for old, new in pairs.values()]
    missed = [new - old for old, new in found["missed"].values()]
    exchanged = [1 - kept for kept in found["kept_at_10"].values()]
    costs = [
        f"{verb} {max(shares):.2%} {of}"
        for shares, limit, verb, of in (
            (worse, MAX_LOSS, "loses", "of recall or AUC"),
            (missed, MAX_LOSS, "lets", "more of what is unsafe count as safe"),
            (exchanged, MAX_EXCHANGED, "exchanges", "of the ten nearest"),
        )
        if max(shares, default=0.0) > limit
    ]
    return f"on {found['on']}, {precision} {', and '.join(costs)}" if costs else ""
