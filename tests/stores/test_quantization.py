"""Quantization on the embedded engine's real index: it is there, and originals decide in the end."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from qdrant_client import models

from hysac_retrieval.stores import CollectionSpec, HnswOptions, VectorQuery
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.extension import inherited_quantization
from hysac_retrieval.stores.types import Quantization, StorageOptions

N, DIM, L = 2000, 64, 10
RNG = np.random.default_rng(11)
VECTORS = RNG.normal(size=(N, DIM)).astype(np.float32)
QUERIES = RNG.normal(size=(20, DIM)).astype(np.float32)
SCORES = QUERIES.astype(np.float64) @ VECTORS.T.astype(np.float64)
BEST = np.argsort(-SCORES, axis=1)[:, :L]


@pytest.mark.parametrize("quantization", [*get_args(Quantization), None])
@pytest.mark.parametrize("on_disk", [True, False])
def test_quantized_search_returns_exact_scores_of_nearly_all_the_best(
    tmp_path: Path, quantization: Quantization | None, on_disk: bool
) -> None:
    store = EdgeStore(tmp_path)
    spec = CollectionSpec(
        DIM,
        {},
        hnsw=HnswOptions(full_scan_threshold=1, indexing_threshold=1, ef_construct=64),
        quantization=quantization,
        storage=StorageOptions(on_disk=on_disk, on_disk_payload=on_disk),
    )
    store.create("c", spec)
    store.upsert("c", list(range(N)), VECTORS, [{}] * N)
    store.optimize("c")
    assert store.indexed("c") == N
    assert any(tmp_path.rglob("*quantized*")) == (quantization is not None)
    # One bit of a coordinate says little; a graph walked by it needs more candidates to choose from.
    oversampling = {None: None, "binary": 20.0}.get(quantization, 4.0)
    query = VectorQuery(QUERIES, limit=L, ef=128, oversampling=oversampling, with_vectors=False)
    found = store.query("c", query)
    hits = sum(len({p.id for p in answer} & set(best.tolist())) for answer, best in zip(found, BEST, strict=True))
    assert hits / BEST.size >= (0.6 if quantization == "binary" else 0.95)
    for row, answer in enumerate(found):
        for point in answer:
            assert point.score == pytest.approx(SCORES[row, int(point.id)], abs=1e-4)
    store.close()


BITS = models.TurboQuantBitSize
INHERITED: list[tuple[models.QuantizationConfig | None, Quantization | None]] = [
    (None, None),
    (models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)), "int8"),
    (models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=BITS.BITS8)), "turbo8"),
    (models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=BITS.BITS4)), "turbo4"),
    (models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig()), "turbo4"),
    (models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=BITS.BITS1)), "binary"),
    (models.BinaryQuantization(binary=models.BinaryQuantizationConfig()), "binary"),
    (models.ProductQuantization(product=models.ProductQuantizationConfig(compression="x16")), "binary"),
]


@pytest.mark.parametrize(("config", "expected"), INHERITED)
@pytest.mark.parametrize("absent", [True, False])
def test_the_compression_of_a_collection_is_read_from_its_configuration(
    config: models.QuantizationConfig | None, expected: Quantization | None, absent: bool
) -> None:
    described = config.model_dump(mode="json", exclude_none=absent) if config is not None else None
    assert inherited_quantization(described) == expected
