"""The cache of a frozen encoder's states: what is put is found, also by the next run, also after a crash."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from hysac_export.training.states import FrozenStates, StateCache

WIDTH = 5


def tokens(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, 1000, n)


def states(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float16)


def test_what_was_put_is_found_again_by_its_tokens(tmp_path: Path) -> None:
    cache = StateCache(tmp_path / "states", WIDTH)
    for seed in (0, 3, 6):
        seeds = range(seed, seed + 3)
        cache.put([tokens(3 + s, s) for s in seeds], [states(3 + s, s) for s in seeds])
    cache.put([tokens(3, 0)], [states(3, 77)])  # there already
    cache.put([], [])
    for one in (cache, StateCache(tmp_path / "states", WIDTH)):
        assert len(one) == 9
        for seed in range(9):
            np.testing.assert_array_equal(one.get(tokens(3 + seed, seed)), states(3 + seed, seed))
        assert tokens(3, 99) not in one


def test_a_run_that_was_killed_leaves_whole_texts(tmp_path: Path) -> None:
    cache = StateCache(tmp_path, WIDTH)
    cache.put([tokens(4, seed) for seed in range(3)], [states(4, seed) for seed in range(3)])
    index, data = tmp_path / "index.bin", tmp_path / "states.bin"
    whole = index.read_bytes(), data.read_bytes()
    for cut, kept in (((0, 3), 2), ((5, 0), 2), ((0, 2 * WIDTH * 4 + 1), 1), ((0, -7), 3)):
        index.write_bytes(whole[0][: len(whole[0]) - cut[0]])
        data.write_bytes(whole[1][: len(whole[1]) - cut[1]] if cut[1] >= 0 else whole[1] + b"1234567")
        found = StateCache(tmp_path, WIDTH)
        assert len(found) == kept
        found.put([tokens(4, 50)], [states(4, 50)])
        again = StateCache(tmp_path, WIDTH)
        assert len(again) == kept + 1
        for seed in (*range(kept), 50):
            np.testing.assert_array_equal(again.get(tokens(4, seed)), states(4, seed))


class Tower:
    """The part of a tower that makes states: each a function of its own token; 3 ends a text."""

    width = WIDTH

    def __init__(self) -> None:
        self.read = 0

    def real(self, ids: torch.Tensor) -> torch.Tensor:
        ends = (ids == 3).long()
        return (ends.cumsum(1) - ends) == 0

    def trim(self, ids: torch.Tensor) -> torch.Tensor:
        return ids[:, : int(self.real(ids).sum(1).max())]

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        self.read += len(ids)
        return torch.sin(ids[..., None] * torch.arange(1, WIDTH + 1) / 7)


def test_each_text_is_read_once_and_the_states_are_those_without_a_cache(tmp_path: Path) -> None:
    ids = torch.tensor([[2, 8, 9, 3, 0, 0], [2, 5, 3, 0, 0, 0], [2, 8, 9, 7, 6, 3]])
    tower, plain = Tower(), Tower()
    cached = FrozenStates(tower, StateCache(tmp_path, WIDTH))
    expected = FrozenStates(plain, None)(ids, nullcontext)
    assert torch.equal(cached(ids[:2], nullcontext), expected[:2])
    assert torch.equal(cached(ids, nullcontext), expected)
    assert torch.equal(cached(ids, nullcontext), expected)
    assert (tower.read, plain.read) == (3, 3)
    assert not expected[1, 3:].any()
    assert expected[2, 5].any()
