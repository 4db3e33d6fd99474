from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hysac_retrieval.encoder import windows
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.windows import overlapping, stretches
from hysac_retrieval.errors import TextError


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle, device="cpu", threads=1)


@given(st.lists(st.booleans(), min_size=1, max_size=80), st.integers(2, 20))
def test_windows_hold_every_run_of_a_quarter_of_their_size(begins: list[bool], size: int) -> None:
    n = len(begins)
    if n <= size:
        begins = begins * (size // n + 1)
        n = len(begins)
    found = overlapping(np.asarray([True, *begins[1:]]), size)
    assert found[0] == (0, size)
    assert found[-1][1] == n
    assert all(0 < end - start <= size for start, end in found)
    run = size // 4
    for place in range(n - run + 1):
        assert any(start <= place and place + run <= end for start, end in found)
    assert len(found) <= n  # and the end is reached


@given(st.lists(st.integers(1, 4), min_size=8, max_size=40))
def test_windows_between_short_words_cut_none_but_the_first(lengths: list[int]) -> None:
    begins = np.concatenate([[True] + [False] * (length - 1) for length in lengths])
    size = 12
    if len(begins) <= size:
        return
    for number, (start, end) in enumerate(overlapping(begins, size)):
        assert begins[start]
        assert number == 0 or end == len(begins) or begins[end]


@pytest.mark.parametrize("text", ["a dog", "a b " * 50, "x" * 300, " \n\n a  dog \n" * 30, "é" * 99])
def test_stretches_are_the_text_without_gaps_but_blank_ones(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "STRETCH", 16)
    found = list(stretches(text))
    assert all(0 < len(part) <= 16 and text[start : start + len(part)] == part for start, part in found)
    covered = {place for start, part in found for place in range(start, start + len(part))}
    assert all(text[place].isspace() for place in set(range(len(text))) - covered)


def test_the_first_window_is_what_the_model_reads_of_the_text(encoder: Encoder) -> None:
    for text in ("a dog", "a dog in the park with a cat and a man", "dog " * 40):
        np.testing.assert_array_equal(encoder.tokenizer.windows(text).rows[0], encoder.tokenizer([text])[0])


@pytest.mark.parametrize("stretch", [32_768, 40])
def test_every_word_of_a_long_text_is_in_a_window_with_its_neighbours(
    encoder: Encoder, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "STRETCH", stretch)
    words = ["dog", "cat", "man", "park", "house"] * 12
    text = " ".join(words)
    found = encoder.tokenizer.windows(text)
    parts = [text[start:end] for start, end in found.spans]
    assert len(found.rows) == len(parts) > 10
    assert all(part.strip() for part in parts)
    for place in range(len(words) - 2):
        near = " ".join(words[place : place + 3])
        assert any(near in part for part in parts)
    ids = encoder.tokenizer(["dog cat man park house"])[0, 1:6]
    assert {int(i) for row in found.rows for i in row[1:-1]} >= set(ids.tolist())
    assert encoder.count_tokens(text) == len(words) + 2


def test_a_megabyte_is_judged_to_its_end_in_little_memory(encoder: Encoder) -> None:
    text = "a dog in the park " * 60_000 + "gun"
    found = encoder.tokenizer.windows(text)
    assert found.spans[-1, 1] == len(text)
    assert found.rows.nbytes < 10 * len(text)


@pytest.mark.parametrize("text", ["", " \n", "\u3000", "\u2028\t"])
def test_a_text_of_white_space_is_empty(encoder: Encoder, text: str) -> None:
    for ask in (encoder.tokenizer.windows, encoder.encode_text, encoder.count_tokens):
        with pytest.raises(TextError, match="empty"):
            ask(text)


@pytest.mark.parametrize("text", ["\ud83d", "a \udc80 dog", "dog " * 20_000 + "\ud800"])
def test_half_a_surrogate_pair_is_no_text(encoder: Encoder, text: str) -> None:
    with pytest.raises(TextError, match="not valid Unicode"):
        encoder.tokenizer.windows(text)
