from __future__ import annotations

import random
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dodges import DODGES

from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.lexicon import Letters, Lexicon
from hysac_retrieval.encoder.readings import readings

WORDS = "a an the man woman dog cat with and in on of park street gun knife pistol blood bomb skull photo next to"
LEXICON = Lexicon.of(WORDS.split(" "))
TEXT = "a man with a gun and a knife in the park"


@pytest.mark.parametrize("kind", DODGES)
def test_what_a_person_reads_is_among_the_readings(kind: str) -> None:
    found = [sorted(reading.lower().split()) for reading in readings(DODGES[kind](TEXT), LEXICON).values()]
    assert sorted(TEXT.split()) in found


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a man with a g u n", "gun"), ("a g-u-n", "gun"), ("a photo of a nug", "gun"), ("GUN!!!", "gun"),
        ("a 9un", "gun"), ("a kn1fe", "knife"), ("a kn!fe", "knife"), ("b|ood", "blood"), ("bIood", "blood"),
        ("p.1.s.t.o.l", "pistol"), ("s.k-u_l l", "skull"), ("ｇ　ｕ　ｎ", "gun"), ("ɡυɴ", "gun"), ("gυп", "gun"),
        ("🅖🅤🅝", "gun"), ("𝖌𝖚𝖓", "gun"), ("🇬🇺🇳", "gun"), ("g\u0336u\u0336n\u0336", "gun"), ("g\0un", "gun"),
        ("b0m8", "bomb"), ("a dog, a gunn", "gun"), ("(g*u*n)", "gun"), ("💣", "bomb"), ("a man 🔪", "knife"),
    ],
)  # fmt: skip
def test_one_word_that_is_hidden_in_a_text_is_read(text: str, word: str) -> None:
    assert any(word in re.findall(r"\w+", reading.lower()) for reading in readings(text, LEXICON).values())


@pytest.mark.parametrize(
    "text",
    [
        "a dog in the park",
        "A Man, with a DOG!",
        "2 man",
        "the man (next to the cat)",
        "next-to",
        "a dog/cat.",
    ],
)
def test_a_text_of_known_words_has_one_reading(text: str) -> None:
    assert readings(text, LEXICON) == {"text": text}


@pytest.mark.parametrize("text", ["a laptop on the desk", "therapist", "asdf qwer", "12345", "???", "naïve", "日本"])
def test_unknown_words_are_not_read_as_known_ones(text: str) -> None:
    known = {"gun", "knife", "pistol", "blood", "bomb", "skull"}
    assert not any(known & set(reading.split()) for reading in readings(text, LEXICON).values())


def test_a_lexicon_without_words_still_gives_plain_letters() -> None:
    assert readings("ｇｕｎ \u200bx", Lexicon(frozenset(), complete=False))["plain letters"] == "gun x"


@given(st.text(max_size=60))
def test_any_text_has_few_distinct_readings_of_which_it_is_the_first(text: str) -> None:
    found = readings(text, LEXICON)
    assert next(iter(found.items())) == ("text", text)
    assert len(found) <= 4
    assert len({reading.strip() for reading in found.values()}) == len(found)


@given(st.text(alphabet=string.ascii_lowercase + string.digits + " -.@$!|" + "аеорс\u200b\u0301", max_size=80))
def test_a_reading_beside_the_text_in_plain_letters_holds_more_known_words(text: str) -> None:
    found = readings(text, LEXICON)
    if "spelled out" in found:
        assert LEXICON.share(found["spelled out"]) > LEXICON.share(text)


def test_a_long_text_is_read_in_time_that_grows_with_its_length() -> None:
    rng = random.Random(0)
    text = " ".join("".join(rng.choices("ab1l!|9 -", k=40)) for _ in range(2_500))
    assert len(readings(text, LEXICON)) <= 4
    assert len(readings("1l!|" * 25_000, LEXICON)) <= 4


@pytest.mark.parametrize("kind", DODGES)
def test_a_vocabulary_of_word_pieces_serves_as_well(encoder: Encoder, kind: str) -> None:
    if kind == "without spaces":
        pytest.skip("a vocabulary that leaves words out does not part them")
    text = "a man with a gun"
    found = encoder.tokenizer.readings(DODGES[kind](text))
    assert any("gun" in re.findall(r"\w+", reading.lower()) for reading in found.values())


@pytest.fixture(scope="module")
def encoder(toy_bundle: object) -> Encoder:
    return Encoder.load(str(toy_bundle), device="cpu", threads=1)


@pytest.mark.parametrize("alphabet", ["4310$!|ab", "abcdefgh1!", "аеорсху1!", "word"])
@pytest.mark.parametrize("size", [1, 2, 6])
def test_what_a_long_text_costs_grows_with_its_length_and_no_faster(
    alphabet: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    words_at = Lexicon.words_at

    def counting(self: Lexicon, letters: Letters, start: int) -> list[tuple[int, str]]:
        asked.append(start)
        return words_at(self, letters, start)

    monkeypatch.setattr(Lexicon, "words_at", counting)
    draw = random.Random(0)
    costs = []
    for words in (60, 600):
        asked.clear()
        readings(" ".join("".join(draw.choices(alphabet, k=size)) for _ in range(words)), LEXICON)
        costs.append(len(asked))
    assert costs[1] <= 15 * max(costs[0], 1000)
    assert len(asked) <= 4 * 600 * size  # each letter once forwards and once backwards, alone and in its run


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a snapshot of a toddler in the park", None),  # neither "snaps hot" nor with its neighbours
        ("a man with a kni fe", "a man with a knife"),
        ("a man with a g u n", "a man with a gun"),
        ("amanwithagunandadog", "a man with a gun and a dog"),
    ],
)
def test_a_word_that_a_vocabulary_lacks_is_not_taken_apart(text: str, found: str | None) -> None:
    lexicon = Lexicon(LEXICON.words | {"snaps", "hot", "ho", "tin"}, complete=False)
    assert readings(text, lexicon).get("spelled out") == found
