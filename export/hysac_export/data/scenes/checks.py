"""Checks that nothing but the content tells safe scenes from unsafe ones: a classifier on each suspect is at chance.

The suspects: the background (colours of the pixels that no sprite covers), the length of the caption, the layout
(number, places and sizes of sprites), and the place of the unsafe thing among the other sprites of its scene.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hysac_export.data.scenes.captions import caption
from hysac_export.data.scenes.catalogue import catalogue
from hysac_export.data.scenes.draw import Artist, Drawing
from hysac_export.data.scenes.sampling import Quadruplet, quadruplets
from hysac_export.data.scenes.splits import styles_for

Floats = NDArray[np.float64]
_CELLS = 8


def leaks(split: str = "train", n: int = 4000, seed: int = 0) -> dict[str, float]:
    """Held-out AUC of a logistic classifier on `background`, `length`, `layout` and `place`; 0.5 is chance."""
    found = quadruplets(split, n, seed)
    rng = np.random.default_rng(seed)
    artist = Artist(styles_for(split))
    scenes = [scene for q in found for scene in (q.safe, q.unsafe)]
    captions = [caption(scene, rng) for scene in scenes]
    drawings = [artist.trace(scene, rng) for scene in scenes]
    labels = np.array([scene.unsafe for scene in scenes])
    sprites, harmful = place_features(found, drawings)
    return {
        "background": held_out_auc(np.stack([background_features(d) for d in drawings]), labels),
        "length": held_out_auc(np.stack([length_features(text) for text in captions]), labels),
        "layout": held_out_auc(np.stack([layout_features(d) for d in drawings]), labels),
        "place": held_out_auc(sprites, harmful),
    }


def background_features(drawing: Drawing) -> Floats:
    """Mean colours of the uncovered pixels in 8 x 8 cells, (192,); wholly covered cells take the mean of all."""
    bare = ~drawing.covered[..., None]
    edge = drawing.covered.shape[0] // _CELLS
    shape = (_CELLS, edge, _CELLS, edge, -1)
    count = bare.reshape(shape).sum((1, 3))
    total = (drawing.pixels.astype(float) * bare).reshape(shape).sum((1, 3))
    overall = total.sum((0, 1)) / max(1, count.sum())
    means: Floats = np.where(count > 0, total / np.maximum(count, 1), overall).ravel()
    return means


def length_features(text: str) -> Floats:
    """Numbers of words, characters and commas, with squares, (6,)."""
    counts = np.array([len(text.split()), len(text), text.count(",")], float)
    return np.concatenate([counts, counts**2])


def layout_features(drawing: Drawing) -> Floats:
    """Number of sprites, then left, top and edge of each in the order of drawing, with squares, (26,)."""
    boxes = [*drawing.boxes.values(), *[(0, 0, 0)] * 4][:4]
    values = np.array([len(drawing.boxes), *(v for box in boxes for v in box)], float)
    return np.concatenate([values, values**2])


def place_features(found: Sequence[Quadruplet], drawings: Sequence[Drawing]) -> tuple[Floats, NDArray[np.bool_]]:
    """Place of the always unsafe sprite and of one other, from every unsafe scene that has one, and which are unsafe.

    Drawings are of the safe and unsafe scenes in turn; (2m, 8): left, top, edge and rank of drawing, with squares.
    """
    known = catalogue().entities
    rows: list[Floats] = []
    labels: list[bool] = []
    for place, q in enumerate(found):
        drawing = drawings[2 * place + 1]
        others = [e for e in q.unsafe.entities if not known[e].unsafe]
        for entity in q.unsafe.entities:
            if known[entity].unsafe:
                for e in (entity, others[place % len(others)]):
                    values = np.array([*drawing.boxes[e], list(drawing.boxes).index(e)], float)
                    rows.append(np.concatenate([values, values**2]))
                    labels.append(e == entity)
    return np.stack(rows), np.array(labels)


def held_out_auc(features: Floats, labels: NDArray[np.bool_]) -> float:
    """AUC on the second half of the rows, (n, k), of a logistic classifier fitted to the first half."""
    half = len(labels) // 4 * 2  # twins stay together
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(features[:half], labels[:half])
    return float(roc_auc_score(labels[half:], classifier.decision_function(features[half:])))
