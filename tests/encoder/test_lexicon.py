from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from hysac_retrieval.encoder.lexicon import Lexicon

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
    found = LEXICON.spelled(letters)
    assert (found if found is None else len(found)) == (words if words is None else len(words))
    assert found is None or "".join(found) == letters
    assert letters != "amanwithagun" or found == words


def test_a_vocabulary_gives_the_words_that_it_keeps_whole() -> None:
    vocabulary = {"<unk>": 0, "man": 1, "dog": 2, "x": 3, "a": 4, "2": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert Lexicon.of_vocabulary(tokenizer).words == {"man", "dog", "a"}
