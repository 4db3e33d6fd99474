"""Texts without pictures to learn from: pairs of a policy, and unlabelled texts of a wide vocabulary.

What a step takes of them is a function of (seed, step) alone, as its quadruplets are.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from hysac_export.config import TextsConfig
from hysac_export.data.batches import tokenize, uncut
from hysac_export.data.policy import read_policy
from hysac_retrieval.errors import TrainingError

GLOSSES = "glosses"
"""Name of the definitions that come with the package; see `data.glosses`."""


@dataclass(frozen=True)
class TextBatch:
    """Token ids of a step, (n, L) int64 each: row i of the unsafe texts belongs to row i of the safe ones.

    `captions` are those of the step's quadruplets, safe and then unsafe, which whoever takes the step puts there.
    """

    safe: Tensor
    unsafe: Tensor
    others: Tensor
    captions: Tensor | None = None


class TextFeed:
    """The texts of a config as token ids; `tokenizer` cuts and pads (see `open_tokenizer`).

    Raises:
        TrainingError: There are fewer than a step takes, or a file cannot be read.
        PolicyError: There is no such policy.
    """

    def __init__(self, config: TextsConfig, tokenizer: Tokenizer, seed: int) -> None:
        self._seed = seed
        pairs = read_policy(config.policy).pairs("fit")
        pairs += _whole(in_company(pairs, config.company, seed), tokenizer)
        others = unlabelled(config.unlabelled)
        for found, needed, key in (
            (len(pairs), config.pairs, "texts.pairs"),
            (len(others), config.others, "texts.others"),
        ):
            if found < needed:
                raise TrainingError(f"there are {found} texts, and {key} asks for {needed} in a step")
        self._sizes = config.pairs, config.others
        self._safe, self._unsafe, self._others = (
            tokenize(tokenizer, texts) for texts in ([p[0] for p in pairs], [p[1] for p in pairs], others)
        )

    def batch(self, step: int) -> TextBatch:
        """The texts of a step, the steps of a run counted from 0; each comes once in a round."""
        pairs = self._rows(step, self._sizes[0], len(self._safe), 4)
        others = self._rows(step, self._sizes[1], len(self._others), 5)
        rows = self._safe[pairs], self._unsafe[pairs], self._others[others]
        return TextBatch(*map(torch.from_numpy, rows))

    def _rows(self, step: int, size: int, n: int, stream: int) -> NDArray[np.int64]:
        # Rounds of whole batches, so that no row comes twice in one.
        rounds, place = divmod(step, n // size)
        order = np.random.default_rng((self._seed, rounds, stream)).permutation(n)
        return order[place * size : (place + 1) * size]


def in_company(pairs: Sequence[tuple[str, str]], times: int, seed: int) -> list[tuple[str, str]]:
    """Each pair `times` times again among one to three safe sentences of other pairs, the same ones on both sides.

    What is learned of them: a text is as unsafe as what is worst in it, and a long one no more than a short one.
    """
    random = np.random.default_rng((seed, 6))
    found = []
    for pair in [pair for _ in range(times) for pair in pairs]:
        company = [pairs[i][0] for i in random.integers(len(pairs), size=random.integers(1, 4))]
        place = int(random.integers(len(company) + 1))
        safe, unsafe = (". ".join([*company[:place], side, *company[place:]]) for side in pair)
        found.append((safe, unsafe))
    return found


def _whole(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Pairs of which nothing is cut off: what makes one side unsafe might be."""
    limit = (tokenizer.truncation or {}).get("max_length", float("inf"))
    whole = uncut(tokenizer)
    lengths = [max(len(encoding.ids) for encoding in whole.encode_batch(list(pair))) for pair in pairs]
    return [pair for pair, length in zip(pairs, lengths, strict=True) if length <= limit]


def unlabelled(sources: Sequence[str]) -> list[str]:
    """Texts of files, one in a line, each once (`TrainingError`: a file cannot be read)."""
    found: dict[str, None] = {}
    for source in sources:
        try:
            found.update(dict.fromkeys(line.strip() for line in _lines(source)))
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(f"the texts {source!r} cannot be read: {error}") from error
    found.pop("", None)
    return list(found)


def _lines(source: str) -> list[str]:
    if source == GLOSSES:
        packed = resources.files("hysac_export").joinpath("data", "glosses.txt.gz").read_bytes()
        return gzip.decompress(packed).decode("utf-8").splitlines()
    return Path(source).expanduser().read_text(encoding="utf-8").splitlines()
