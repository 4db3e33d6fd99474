from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from hysac_retrieval.encoder.lexicon import Letters, Lexicon, Spelling

LEXICON = Lexicon.of(["A", "man", "with", "gun", "guns", "hip", "ship", "on"])


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a man", 1.0),
        ("A MAN, WITH!", 1.0),
        ("a xqz", 1 / 4),
        ("", 0.0),
        ("???", 0.0),
        ("3 men", 0.0),
        ("3 man", 1.0),
        ("m4n", 0.0),
    ],
)
def test_share_is_that_of_the_letters_in_known_words(text: str, share: float) -> None:
    assert LEXICON.share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("letters", "words"),
    [
        ("amanwithagun", ("a", "man", "with", "a", "gun")),
        ("gunship", ("gun", "ship")),  # not guns-hip: the longest first is not the fewest
        ("ship", ("ship",)),
        ("shipx", None),
        ("", None),
    ],
)
def test_a_run_of_letters_is_spelled_by_the_fewest_words_that_are_all_of_it(
    letters: str, words: tuple[str, ...] | None
) -> None:
    found = Spelling(LEXICON, letters)(0, [len(letters)])
    assert (found if found is None else len(found[1])) == (words if words is None else len(words))
    assert found is None or "".join(found[1]) == letters
    assert letters != "amanwithagun" or (found and found[1]) == words


def test_the_first_end_up_to_which_something_is_spelled_is_found_from_any_place() -> None:
    spelling = Spelling(LEXICON, "xamanwithq")
    assert spelling(1, [10, 9, 5]) == (9, ("a", "man", "with"))
    assert spelling(1, [10, 5, 9]) == (5, ("a", "man"))
    assert spelling(0, [9, 5]) is None


@pytest.mark.parametrize(
    ("letters", "drawn", "word"),
    [
        ("gun", False, "gun"),
        (["g", "uo", "nm"], False, "gun"),
        (["bg", "u", "n"], False, "gun"),
        ("guuun", False, None),
        ("guuun", True, "gun"),
        ("gguunn", True, "gun"),
        ("guns", True, "guns"),
        (["g", "", "n"], True, None),
        (["g", ("",), "u", "n"], False, "gun"),
        ("gu", True, None),
    ],
)
def test_letters_make_the_likeliest_word_that_is_all_of_them(letters: Letters, drawn: bool, word: str | None) -> None:
    assert LEXICON.word(letters, drawn=drawn) == word


def test_words_backwards_are_known_by_their_own_lexicon() -> None:
    assert LEXICON.backwards.word("nug") == "nug"
    assert LEXICON.backwards.word("gun") is None


def test_a_vocabulary_gives_the_words_that_it_keeps_whole() -> None:
    vocabulary = {"<unk>": 0, "man": 1, "dog": 2, "x": 3, "a": 4, "2": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert Lexicon.of_vocabulary(tokenizer).words == {"man", "dog", "a"}
