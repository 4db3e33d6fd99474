from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hysac_export.model.tokenizer import END, PAD, SPECIAL_TOKENS, START, text_spec, train_tokenizer
from hysac_retrieval.encoder.tokenization import TextTokenizer
from hysac_retrieval.errors import TextError, TrainingError

CAPTIONS = ["a dog in the park", "two dogs and a cat", "The cat, the dog and the knife.", "a knife in the kitchen"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CAPTIONS, 320)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return list(tokenizer.encode(text).tokens)


def test_the_end_token_has_the_highest_id_and_padding_is_zero(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_to_id(PAD) == 0
    assert tokenizer.token_to_id(END) == tokenizer.get_vocab_size() - 1
    ids = np.array(tokenizer.encode("a dog in the park").ids)
    assert ids.argmax() == len(ids) - 1


def test_the_vocabulary_is_no_larger_than_asked_and_holds_every_byte(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() <= 320
    assert train_tokenizer(CAPTIONS, 259).get_vocab_size() == 259
    assert all(len(pieces(train_tokenizer(CAPTIONS, 259), chr(i))) >= 3 for i in range(33, 127))


def test_a_word_is_one_token_wherever_it_stands_and_however_it_is_written(tokenizer: Tokenizer) -> None:
    start, dog, end = tokenizer.encode("dog").ids
    assert (start, end) == (tokenizer.token_to_id(START), tokenizer.token_to_id(END))
    for text in ("a dog", "The DOG, and a cat", "knife/dog", "ｄｏｇ", "in the park: dog"):
        assert dog in tokenizer.encode(text).ids, text


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert train_tokenizer(CAPTIONS, 300).to_str() == train_tokenizer(iter(CAPTIONS), 300).to_str()


def test_saving_and_loading_changes_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    loaded = TextTokenizer.from_file(path, text_spec(tokenizer, 12))
    expected = [tokenizer.encode(text).ids for text in CAPTIONS[:3]]
    for row, ids in zip(loaded(CAPTIONS[:3]), expected, strict=True):
        assert row.tolist() == ids + [0] * (12 - len(ids))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(text=st.text(min_size=1, max_size=60))
def test_any_text_becomes_start_tokens_end(tokenizer: Tokenizer, text: str) -> None:
    tokenize = TextTokenizer(tokenizer, text_spec(tokenizer, 16))
    try:
        (row,) = tokenize([text])
    except TextError:
        assert not text.strip() or not tokenizer.encode(text, add_special_tokens=False).ids
        return
    end = row.argmax()
    assert row[0] == tokenizer.token_to_id(START)
    assert row[end] == tokenizer.token_to_id(END)
    assert end >= 2
    assert (row[end + 1 :] == 0).all()
    assert not np.isin(row[1:end], [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]).any()
    assert tokenize.count(text) >= end + 1


def test_the_trainer_s_cutting_and_padding_is_that_of_the_runtime(tokenizer: Tokenizer) -> None:
    texts = ["a dog", "a dog in the park and a cat and a knife and two dogs in the kitchen"]
    runtime = TextTokenizer(Tokenizer.from_str(tokenizer.to_str()), text_spec(tokenizer, 10))(texts)
    trainer = Tokenizer.from_str(tokenizer.to_str())
    trainer.enable_truncation(10)
    trainer.enable_padding(length=10, pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    assert runtime.tolist() == [encoding.ids for encoding in trainer.encode_batch(texts)]


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_texts_are_refused(texts: list[str]) -> None:
    with pytest.raises(TrainingError, match="no texts"):
        train_tokenizer(texts)


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(TrainingError, match="at least 259"):
        train_tokenizer(CAPTIONS, 258)


def test_a_tokenizer_of_another_make_is_refused() -> None:
    from tokenizers.models import BPE

    with pytest.raises(TrainingError, match="train_tokenizer"):
        text_spec(Tokenizer(BPE()), 10)
