"""States of a frozen text encoder on disk: each text is read once, in the first epoch, and never again.

Two files that only grow: states in half precision, one token after another, and an index of records that say which
tokens they belong to. A record is written after its states. What a killed run left behind is kept up to the last record
that is whole, so a resumed run finds what it had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hysac_export.model.text_tower import SentenceTower

_TOGETHER = 16
_RECORD = np.dtype([("key", "u1", 16), ("start", "<i8"), ("length", "<i4")])


class StateCache:
    """States by token ids; `width` numbers of each token. One process writes to a folder at a time."""

    def __init__(self, folder: Path, width: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = folder / "index.bin", folder / "states.bin"
        self._width = width
        for path in self._paths:
            path.touch()
        size = self._paths[1].stat().st_size // (2 * width)
        count = self._paths[0].stat().st_size // _RECORD.itemsize
        records = np.fromfile(self._paths[0], _RECORD, count)
        whole = int(np.searchsorted(records["start"] + records["length"], size, side="right"))
        records = records[:whole]
        self._places = {row["key"].tobytes(): (int(row["start"]), int(row["length"])) for row in records}
        self._end = int(records[-1]["start"] + records[-1]["length"]) if whole else 0
        for path, used in zip(self._paths, (whole * _RECORD.itemsize, 2 * width * self._end), strict=True):
            with path.open("r+b") as file:
                file.truncate(used)
        self._map: NDArray[np.float16] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, tokens: NDArray[np.int64]) -> bool:
        return _key(tokens) in self._places

    def put(self, texts: Sequence[NDArray[np.int64]], states: Sequence[NDArray[np.float16]]) -> None:
        """Keep the states of texts, (n, width) of one of n tokens; of what is there already, the old ones."""
        fresh = {key: pair for pair in zip(texts, states, strict=True) if (key := _key(pair[0])) not in self._places}
        records = np.zeros(len(fresh), _RECORD)
        with self._paths[1].open("ab") as data:
            for record, (key, (tokens, found)) in zip(records, fresh.items(), strict=True):
                data.write(np.ascontiguousarray(found, dtype=np.float16).tobytes())
                record["key"] = np.frombuffer(key, np.uint8)
                record["start"], record["length"] = self._places[key] = self._end, len(tokens)
                self._end += len(tokens)
        with self._paths[0].open("ab") as index:
            index.write(records.tobytes())

    def get(self, tokens: NDArray[np.int64]) -> NDArray[np.float16]:
        """The states of a text that is there, (n, width)."""
        start, length = self._places[_key(tokens)]
        if self._map is None or start + length > len(self._map):
            self._map = np.memmap(self._paths[1], np.float16, "r", shape=(self._end, self._width))
        return self._map[start : start + length]


class FrozenStates:
    """States of a frozen encoder's tokens, from the cache where they are there: (B, L) ids to (B, L, w) float32.

    They are rounded to half precision, kept or not, so that they are the same the second time. Without a `cache` all
    are computed, as is sensible for texts that do not come again. Columns behind the end of a text are 0.
    """

    def __init__(self, tower: SentenceTower, cache: StateCache | None) -> None:
        self._tower = tower
        self._cache = cache

    @torch.no_grad()
    def __call__(self, tokens: Tensor, autocast: Callable[[], Any]) -> Tensor:
        """Return the states; the encoder runs in `autocast`."""
        real = self._tower.real(tokens)
        if self._cache is None:
            return self._computed(tokens, real, autocast)
        lengths = real.sum(1).tolist()
        rows = [row[:length] for row, length in zip(tokens.cpu().numpy(), lengths, strict=True)]
        missing = [i for i, row in enumerate(rows) if row not in self._cache]
        missing.sort(key=lambda i: lengths[i])  # texts of about one length together, so that little is padded
        for part in (missing[i : i + _TOGETHER] for i in range(0, len(missing), _TOGETHER)):
            found = self._computed(self._tower.trim(tokens[part]), None, autocast).half().cpu().numpy()
            kept = [states[: lengths[i]] for i, states in zip(part, found, strict=True)]
            self._cache.put([rows[i] for i in part], kept)
        out = np.zeros((*tokens.shape, self._tower.width), dtype=np.float16)
        for place, row in zip(out, rows, strict=True):
            place[: len(row)] = self._cache.get(row)
        return torch.from_numpy(out).to(tokens.device).float()

    def _computed(self, tokens: Tensor, real: Tensor | None, autocast: Callable[[], Any]) -> Tensor:
        with autocast():
            states = self._tower.states(tokens).half().float()
        return states if real is None else states * real[..., None]


def _key(tokens: NDArray[np.int64]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(tokens).tobytes(), digest_size=16).digest()
