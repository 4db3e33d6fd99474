"""Points to measure with: random ones at three spreads of radius, and scenes encoded by a model."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import WALKED, Points

from hysac_retrieval import lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.lift import PaddedLift
from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, SafetyProfile
from hysac_retrieval.safety.redirect import redirect
from hysac_retrieval.stores.types import Quantization

GROUPS = ("safe_text", "safe_image", "unsafe_text", "unsafe_image")
SPREADS: dict[str, dict[str, tuple[float, float]]] = {
    # Means and deviations of a small HySAC model trained on scenes.
    "narrow": {
        "safe_text": (1.94, 0.06),
        "safe_image": (2.42, 0.15),
        "unsafe_text": (2.78, 0.04),
        "unsafe_image": (3.16, 0.10),
    },
    "medium": {
        "safe_text": (2.0, 0.5),
        "safe_image": (2.8, 0.7),
        "unsafe_text": (3.6, 0.7),
        "unsafe_image": (4.4, 0.9),
    },
    # Products of coordinates over six orders of magnitude.
    "wide": {
        "safe_text": (3.0, 1.5),
        "safe_image": (5.0, 2.5),
        "unsafe_text": (7.0, 2.5),
        "unsafe_image": (9.0, 3.0),
    },
}
CURVATURE = 0.26
_LATENT = 32


@dataclass(frozen=True)
class Data:
    """A gallery of images and queries of each group.

    Attributes:
        label: What they are, in words.
        space: Arguments for `Index.create`: dim, curvature, safety and what the lift is made from.
        sample: Points to fit a lift on.
        gallery: Shape (n, d), safe and unsafe images.
        queries: Points of each of `GROUPS`.
    """

    label: str
    space: Mapping[str, Any]
    sample: Points
    gallery: Points
    queries: Mapping[str, Points]

    @property
    def curvature(self) -> float:
        """Curvature c > 0."""
        return float(self.space["curvature"])

    @property
    def safety(self) -> SafetyProfile:
        """Calibration of the points."""
        profile: SafetyProfile = self.space["safety"]
        return profile

    def kinds(self) -> dict[str, Points]:
        """The four kinds of query that are measured."""
        unsafe = self.queries["unsafe_text"]
        return {
            "safe text": self.queries["safe_text"],
            "unsafe text": unsafe,
            "unsafe text, traversed": redirect(unsafe, "text", self.safety, self.curvature)[0],
            "unsafe image": self.queries["unsafe_image"],
        }


class Synthetic:
    """Clustered points whose radii are drawn around the mean of their group; any block of them, again and again.

    Directions have 32 degrees of freedom whatever the dimension, as those of encoders have few, and a little noise in
    all of them. Curvature −0.26.

    Args:
        dim: Number d of space components.
        spread: One of `SPREADS`.
        clusters: Number of centres.
        seed: Of everything.
    """

    def __init__(self, dim: int, spread: str = "narrow", clusters: int = 500, seed: int = 0) -> None:
        self.dim, self.radii, self.seed = dim, SPREADS[spread], seed
        rng = np.random.default_rng((seed, 0))
        self._latent = min(_LATENT, dim)
        self._centres = rng.normal(size=(clusters, self._latent))
        self._axes = np.linalg.qr(rng.normal(size=(dim, self._latent)))[0].T

    def draw(self, group: str, count: int, block: int = 0) -> Points:
        """Points (count, d) of a group; the same for the same block."""
        rng = np.random.default_rng((self.seed, 1 + GROUPS.index(group), block))
        centres = self._centres[rng.integers(0, len(self._centres), count)]
        direction = (centres + 0.6 * rng.normal(size=centres.shape)) @ self._axes
        direction += 0.2 * (self._latent / self.dim) ** 0.5 * rng.normal(size=direction.shape)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        radius = np.abs(rng.normal(*self.radii[group], (count, 1)))
        points: Points = lorentz.exp_map0(direction * radius, CURVATURE)
        return points

    def images(self, count: int, block: int = 0, safe: float = 0.5) -> Points:
        """Safe images, then unsafe ones, (count, d)."""
        first = round(count * safe)
        return np.concatenate([self.draw("safe_image", first, block), self.draw("unsafe_image", count - first, block)])

    def safety(self) -> SafetyProfile:
        """A calibration that fits the radii."""

        def modality(name: str) -> ModalityProfile:
            groups = [self.radii[f"{kind}_{name}"] for kind in ("safe", "unsafe")]
            steps = np.linspace(-2, 2, 41)
            stats = [RadiusStats.of(np.abs(mean + std * steps)) for mean, std in groups]
            return ModalityProfile(
                safe=stats[0],
                unsafe=stats[1],
                slope=20.0,
                midpoint=(stats[0].mean + stats[1].mean) / 2,
                boundary=stats[0].mean,
            )

        return SafetyProfile(text=modality("text"), image=modality("image"), threshold=0.5, source="synthetic")

    def space(self) -> dict[str, Any]:
        """Arguments for `Index.create`, without the lift."""
        return {"dim": self.dim, "curvature": CURVATURE, "safety": self.safety()}


@contextmanager
def stored(
    data: Data,
    lift: str = "padded",
    quantization: Quantization | None = None,
    payload: Callable[[int], dict[str, Any]] | None = None,
) -> Iterator[tuple[Index, dict[str, float]]]:
    """The gallery in a collection of the embedded engine, in a temporary folder, walked through its graph.

    Yields the collection and the seconds of its making.

    Raises:
        InvalidVectorError: The lift cannot hold the points.
    """
    space = dict(data.space)
    bundled = space.pop("lift", None)
    chosen = lift if lift == "poincare" else bundled or PaddedLift.fit(data.sample, data.curvature)
    with (
        tempfile.TemporaryDirectory() as folder,
        Index.create("gallery", **space, lift=chosen, quantization=quantization, hnsw=WALKED, location=folder) as index,
    ):
        start = time.perf_counter()
        for at in range(0, len(data.gallery), 2000):
            part = data.gallery[at : at + 2000]
            rows = range(at, at + len(part))
            index.upsert(rows, part, modality="image", payloads=None if payload is None else [payload(i) for i in rows])
        uploaded = time.perf_counter()
        index.optimize()
        yield index, {"upsert": round(uploaded - start, 2), "optimize": round(time.perf_counter() - uploaded, 2)}


def synthetic(
    n: int, queries: int, dim: int = 128, spread: str = "narrow", safe: float = 0.5, together: int = 40
) -> Data:
    """A gallery of random points and queries near them.

    Args:
        n: Points of the gallery.
        queries: Queries of each group.
        dim: Space components.
        spread: One of `SPREADS`.
        safe: Share of the gallery that is safe.
        together: Points around one centre.
    """
    source = Synthetic(dim, spread, clusters=max(n // together, 1))
    return Data(
        label=f"synthetic, {spread} radii, d={dim}",
        space=source.space(),
        sample=source.images(2000, block=2),
        gallery=source.images(n, safe=safe),
        queries={group: source.draw(group, queries, block=1) for group in GROUPS},
    )


def encoded(model: str, n: int, queries: int, cache: Path | None = None) -> Data:
    """A gallery of scenes of the test split, and queries from other scenes of it, encoded by a model.

    Args:
        model: Bundled name, folder or hub repository.
        n: Images of the gallery, half of them safe.
        queries: Queries of each group.
        cache: Folder to keep the points in, since drawing and encoding many takes minutes; None for no cache.
    """
    from hysac_retrieval.encoder.encoder import Encoder

    encoder = Encoder.load(model)
    space: dict[str, Any] = {
        "dim": encoder.dim,
        "curvature": encoder.curvature,
        "safety": encoder.safety,
        "fingerprint": encoder.fingerprint,
    }
    points = _cached(encoder, n, queries, cache)
    gallery = np.concatenate([points["safe_gallery"], points["unsafe_gallery"]]).astype(np.float64)[:n]
    asked = {group: points[group].astype(np.float64) for group in GROUPS}
    if encoder.lift is not None:
        space["lift"] = encoder.lift
    return Data(f"scenes of the test split, encoded by {model}", space, gallery[::7], gallery, asked)


def _cached(encoder: Any, n: int, queries: int, cache: Path | None) -> dict[str, Any]:
    path = None if cache is None else cache / f"{encoder.fingerprint}-{n}-{queries}.npz"
    if path is not None and path.is_file():
        with np.load(path) as stored:
            return dict(stored)
    from hysac_export.model.encoded import encode_split

    size = encoder.image_spec.size
    gallery = encode_split(encoder, "test", math.ceil(n / 2), 0, size)
    asked = encode_split(encoder, "test", queries, 1, size)
    points = {group: getattr(asked, group) for group in GROUPS}
    points |= {"safe_gallery": gallery.safe_image, "unsafe_gallery": gallery.unsafe_image}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **points)
    return points
