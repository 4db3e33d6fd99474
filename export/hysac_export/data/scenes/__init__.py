"""Scenes to learn from: quadruplets of safe and unsafe pictures and captions, composed of emoji artwork.

    for q in quadruplets("train", 1000, seed=0):
        Artist(styles_for("train")).draw(q.safe, rng), caption(q.safe, rng)

Everything is a pure function of split, seed and generator. The safe scenes and the unsafe ones differ in what is in
them and in nothing else; `checks` measures that.
"""

from hysac_export.data.scenes.captions import caption
from hysac_export.data.scenes.catalogue import CATEGORIES, KNOWN_STYLES, TRAIN_STYLES, UNSEEN_STYLES, catalogue
from hysac_export.data.scenes.draw import Artist
from hysac_export.data.scenes.sampling import Quadruplet, Scene, label, quadruplets
from hysac_export.data.scenes.splits import SPLITS, styles_for

__all__ = [
    "CATEGORIES",
    "KNOWN_STYLES",
    "SPLITS",
    "TRAIN_STYLES",
    "UNSEEN_STYLES",
    "Artist",
    "Quadruplet",
    "Scene",
    "caption",
    "catalogue",
    "label",
    "quadruplets",
    "styles_for",
]
