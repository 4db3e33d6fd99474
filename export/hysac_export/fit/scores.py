"""P(unsafe) from the vectors of an encoder: a logistic regression, or a small network where that is better.

All that is said of a fit comes from predictions for examples that were in no part of what it was fitted to, by groups:
sentences of one phrase, or the two sides of a pair, are never on both sides of a fold.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hysac_export.evaluation.calibrate import fit_logistic
from hysac_retrieval.encoder.vectors import unit_vectors
from hysac_retrieval.errors import InvalidVectorError, MissingExtraError, TrainingError
from hysac_retrieval.types import Modality

Vectors: TypeAlias = NDArray[np.float32]
Floats: TypeAlias = NDArray[np.float64]
Layers: TypeAlias = tuple[tuple[Floats, Floats], ...]

FEWEST = 8
"""Examples of each kind, safe and unsafe, below which nothing can be said."""
NETWORK_FROM = 1000
"""Labels from which a network is tried as well."""
_PENALTIES = np.logspace(-2, 2, 9)  # inverse, of the weights on vectors of about unit variance in every component
_FOLDS = 5
_HIDDEN = 64


def unit(vectors: ArrayLike) -> Vectors:
    """Return vectors (n, k) scaled to length 1, float32.

    Raises:
        InvalidVectorError: They are not (n, k), or some are not finite or have no direction.
    """
    found = np.asarray(vectors, dtype=np.float64)
    rows, faults = unit_vectors(found, found.shape[-1] if found.ndim else 0)
    if faults:
        which = f"{len(faults)} of {len(rows)} vectors are zero or not finite, the first in row {min(faults)}"
        raise InvalidVectorError(which, hint="Leave them out")
    return rows


@dataclass(frozen=True)
class Labelled:
    """Labelled examples of one modality.

    Attributes:
        vectors: Unit vectors, (n, k) float32.
        unsafe: What they are, (n,) bool.
        groups: Numbers of what must not be torn apart in cross-validation, (n,) int64: phrases or pairs; a row each by
            default.
        names: What the examples are called, n texts or file names; for reports.
        categories: Categories, n words; for reports.
        pseudo: Whether the labels are guesses of the encoder's own, by which nothing can be judged.
        pairs: Numbers that an unsafe example shares with its safe counterpart, (n,) int64; -1 for none.
        counts: Counts of the pixels of pictures among them, (m, k); see `picture_counts`.

    Raises:
        InvalidVectorError: A vector cannot be used.
        TrainingError: There are too few of a kind, or one and the same vector is labelled both ways.
    """

    vectors: Vectors
    unsafe: NDArray[np.bool_]
    groups: NDArray[np.int64]
    names: Sequence[str] = ()
    categories: Sequence[str] = ()
    pairs: NDArray[np.int64] | None = None
    counts: NDArray[np.float32] | None = None
    pseudo: bool = False

    @classmethod
    def of(
        cls,
        vectors: ArrayLike,
        unsafe: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        names: Sequence[str] = (),
        categories: Sequence[str] = (),
        pairs: ArrayLike | None = None,
        counts: NDArray[np.float32] | None = None,
    ) -> Self:
        """Check and gather examples; vectors of any length are scaled."""
        rows, kinds = unit(vectors), np.asarray(unsafe, dtype=np.bool_)
        if kinds.shape != (len(rows),):
            raise TrainingError(f"{len(rows)} vectors have labels of shape {kinds.shape}, expected one each")
        for what, number in (("unsafe", int(kinds.sum())), ("safe", int((~kinds).sum()))):
            if number < FEWEST:
                message = f"there are {number} {what} examples, and at least {FEWEST} are needed"
                raise TrainingError(message, hint="About 100 of each kind make a good start")
        _expect_consistent(rows, kinds, names)
        own = np.arange(len(rows)) if groups is None else np.asarray(groups, dtype=np.int64)
        numbers = None if pairs is None else np.asarray(pairs, dtype=np.int64)
        return cls(rows, kinds, own, names, categories, numbers, counts)

    def __len__(self) -> int:
        return len(self.vectors)


def _expect_consistent(vectors: Vectors, unsafe: NDArray[np.bool_], names: Sequence[str]) -> None:
    """Refuse vectors that occur with both labels."""
    _, where = np.unique(vectors.round(6), axis=0, return_inverse=True)
    each = np.bincount(where, minlength=1)
    wrong = np.bincount(where, weights=unsafe)
    mixed = np.flatnonzero((wrong > 0) & (wrong < each))
    if mixed.size:
        rows = np.flatnonzero(where == mixed[0])[:4]
        shown = ", ".join(repr(names[row]) if names and names[row] else f"row {row}" for row in rows)
        message = f"{mixed.size} vectors are labelled safe and unsafe, such as {shown}"
        raise TrainingError(message, hint="Decide which they are, or leave them out")


@dataclass(frozen=True)
class Scorer:
    """A function from unit vectors to the logit of P(unsafe).

    Attributes:
        layers: Matrices (in, out) and offsets (out,) of each layer; between layers is a rectifier.
        kind: ``"logistic regression"`` or ``"network"``.
    """

    layers: Layers
    kind: str

    def logits(self, vectors: ArrayLike) -> Floats:
        """Return logits, (n,), of unit vectors, (n, k)."""
        found = np.asarray(vectors, dtype=np.float64)
        for number, (weights, offset) in enumerate(self.layers):
            found = (np.maximum(found, 0.0) if number else found) @ weights + offset
        return found[:, 0]

    def scaled(self, slope: float, offset: float) -> Self:
        """Return the scorer whose logits are slope · logit + offset."""
        *first, (weights, last) = self.layers
        return type(self)((*first, (weights * slope, last * slope + offset)), self.kind)


@dataclass(frozen=True)
class ScoreFit:
    """A scorer, and what it gave for every example when that was not in its fold.

    Attributes:
        scorer: Fitted to all examples; its logits are calibrated.
        logits: Logits of the examples from cross-validation, (n,).
        loss: Mean negative log-likelihood of those, in nats.
    """

    scorer: Scorer
    logits: Floats
    loss: float


def fit_scores(examples: Labelled, *, seed: int = 0) -> ScoreFit:
    """Fit P(unsafe) to examples; a network only above `NETWORK_FROM` labels and if cross-validation finds it better.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        TrainingError: The examples cannot be split into folds with both kinds in each.
    """
    try:
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "fit", "fitting a safety head") from error
    folds = _folds(examples, seed)
    candidates = {"logistic regression": _regression(examples, folds)}
    if len(examples) >= NETWORK_FROM:
        network = MLPClassifier((_HIDDEN,), alpha=1.0, early_stopping=True, max_iter=200, random_state=seed)
        candidates["network"] = make_pipeline(StandardScaler(), network)
    found, failed = list[ScoreFit](), None
    for kind, model in candidates.items():
        try:
            found.append(_cross_validated(examples, model, folds, kind))
        except TrainingError as error:
            failed = error
    if not found:
        assert failed is not None
        raise failed
    return min(found, key=lambda fit: fit.loss)


def calibrated(scorer: Scorer, raw: Floats, unsafe: NDArray[np.bool_]) -> ScoreFit:
    """Return a scorer whose logits are those of P(unsafe), by a logistic regression on raw ones (Platt 1999).

    Args:
        scorer: What gives raw logits.
        raw: Those of some examples, (n,), which the scorer was not fitted to.
        unsafe: What they are, (n,).

    Raises:
        TrainingError: Raw logits do not grow with what is unsafe.
    """
    slope, midpoint = fit_logistic(raw[~unsafe], raw[unsafe])
    if not slope > 0:
        message = "these vectors say nothing of what is unsafe: cross-validated scores do no better than chance"
        raise TrainingError(message, hint="Check the labels, give more of them, or take another encoder")
    logits = slope * (raw - midpoint)
    loss = float(np.logaddexp(0, np.where(unsafe, -logits, logits)).mean())
    return ScoreFit(scorer.scaled(slope, -slope * midpoint), logits, loss)


def _folds(examples: Labelled, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    try:
        folds = list(splitter.split(examples.vectors, examples.unsafe, examples.groups))
    except ValueError as error:
        raise TrainingError(f"the examples cannot be cross-validated: {error}", hint="Give more groups") from error
    for train, held in folds:
        if not len(held) or examples.unsafe[train].all() or not examples.unsafe[train].any():
            groups = len(np.unique(examples.groups))
            message = f"{len(examples)} examples in {groups} groups leave a fold without safe or unsafe ones"
            raise TrainingError(message, hint="Give examples of more phrases, or of more sources")
    return folds


def _regression(examples: Labelled, folds: list[Any]) -> Any:
    """Return a logistic regression with the penalty that cross-validation finds best."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    # Penalties for a thousandth of the usual weight: in many dimensions all examples can be told apart by heart.
    grid = {"logisticregression__C": _PENALTIES / examples.vectors.shape[1]}
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=folds, refit=False)
    search.fit(examples.vectors, examples.unsafe)
    return model.set_params(**search.best_params_)


def _cross_validated(examples: Labelled, model: Any, folds: list[Any], kind: str) -> ScoreFit:
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning

    raw = np.empty(len(examples))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that stopped early is judged by what it gives
        for train, held in folds:
            fitted = clone(model).fit(examples.vectors[train], examples.unsafe[train])
            raw[held] = _scorer(fitted, kind).logits(examples.vectors[held])
        scorer = _scorer(clone(model).fit(examples.vectors, examples.unsafe), kind)
    return calibrated(scorer, raw, examples.unsafe)


def _scorer(pipeline: Any, kind: str) -> Scorer:
    """Return the layers of a fitted pipeline, the scaling of its input folded into the first."""
    scaler, model = pipeline[0], pipeline[-1]
    layers = (
        [(model.coef_.T, model.intercept_)]
        if kind == "logistic regression"
        else list(zip(model.coefs_, model.intercepts_, strict=True))
    )
    weights, offset = layers[0]
    first = weights / scaler.scale_[:, None]
    return Scorer(((first, offset - scaler.mean_ @ first), *layers[1:]), kind)


def joined(parts: Sequence[tuple[Modality, Labelled]]) -> dict[Modality, Labelled]:
    """Join examples of several sources, by modality.

    Raises:
        TrainingError: Their vectors differ in size, or one is labelled both ways.
    """
    found = dict[Modality, Labelled]()
    for modality in dict.fromkeys(modality for modality, _ in parts):
        own = [part for name, part in parts if name == modality]
        if len(own) == 1:
            found[modality] = own[0]
            continue
        if len({part.vectors.shape[1] for part in own}) > 1:
            sizes = " and ".join(str(part.vectors.shape[1]) for part in own)
            raise TrainingError(f"the vectors have different sizes: {sizes}", hint="Take all from one encoder")
        starts = np.cumsum([0, *(int(part.groups.max()) + 1 for part in own)])
        pairs = [np.full(len(part), -1) if part.pairs is None else part.pairs for part in own]
        ends = np.cumsum([0, *(int(each.max()) + 1 for each in pairs)])
        counts = [part.counts for part in own if part.counts is not None]
        found[modality] = Labelled.of(
            np.concatenate([part.vectors for part in own]),
            np.concatenate([part.unsafe for part in own]),
            groups=np.concatenate([part.groups + start for part, start in zip(own, starts[:-1], strict=True)]),
            names=[name for part in own for name in part.names or [""] * len(part)],
            categories=[name for part in own for name in part.categories or [""] * len(part)],
            pairs=np.concatenate([np.where(p < 0, -1, p + end) for p, end in zip(pairs, ends[:-1], strict=True)]),
            counts=np.concatenate(counts) if counts else None,
        )
    return found
