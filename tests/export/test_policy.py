"""Policies in words: what is read, what is refused and where, and what the policy `general` holds."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from hysac_export.data.policy import SPLITS, Example, Policy, bundled_policies, read_policy, split_of
from hysac_retrieval.errors import InputError, PolicyError

HEADER = "category,phrase,split,unsafe,safe\n"
KITCHEN = """
name: kitchen
description: For the test.
licence: CC0-1.0
templates: ["{}", "a photo of {}"]
categories:
  weapons:
    description: Knives that threaten.
    phrases:
      - unsafe: a handgun pointed at a stranger
        safe: [a toy gun in its box, a starting pistol at a race]
      - phrase: a kitchen knife
        split: test
        unsafe_only_if: [held against a man's throat]
        safe_otherwise: [beside a chopping board]
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a policy and, where given, its pairs; return the path of the policy."""

    def files(text: str = KITCHEN, rows: str | None = None) -> Path:
        path = tmp_path / "mine.yaml"
        if rows is not None:
            (tmp_path / "mine.csv").write_text(rows, encoding="utf-8")
            text += "pairs: mine.csv\n"
        path.write_text(text, encoding="utf-8")
        return path

    return files


@pytest.fixture(scope="module")
def general() -> Policy:
    return read_policy("general")


PAIRS = ("general.csv", "general-everyday.csv")


def rows(name: str) -> list[dict[str, str]]:
    """Rows of a CSV file of the bundled policies."""
    with (bundled_policies()["general"].parent / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def texts(policy: Policy, unsafe: bool) -> list[str]:
    return [example.text for example in policy.sentences if example.unsafe == unsafe]


def test_templates_turn_phrases_and_conditions_into_sentences(write: Write) -> None:
    policy = read_policy(write())
    assert texts(policy, unsafe=True) == [
        "a handgun pointed at a stranger",
        "a photo of a handgun pointed at a stranger",
        "a kitchen knife held against a man's throat",
        "a photo of a kitchen knife held against a man's throat",
    ]
    assert texts(policy, unsafe=False) == [
        "a toy gun in its box",
        "a starting pistol at a race",
        "a photo of a toy gun in its box",
        "a photo of a starting pistol at a race",
        "a kitchen knife",
        "a kitchen knife beside a chopping board",
        "a photo of a kitchen knife",
        "a photo of a kitchen knife beside a chopping board",
    ]
    assert (policy.name, policy.licence, dict(policy.categories)) == (
        "kitchen",
        "CC0-1.0",
        {"weapons": "Knives that threaten."},
    )


def test_twins_share_a_pair_and_nobody_else_does(write: Write) -> None:
    pairs = defaultdict(set)
    for example in read_policy(write()).sentences:
        pairs[example.pair].add((example.phrase, example.text.startswith("a photo of")))
    assert list(pairs.values()) == [
        {("a handgun pointed at a stranger", False)},
        {("a handgun pointed at a stranger", True)},
        {("a kitchen knife", False)},
        {("a kitchen knife", True)},
    ]


def test_a_phrase_is_whole_in_the_split_that_it_names_or_that_its_hash_gives(write: Write) -> None:
    policy = read_policy(write())
    assert {example.split for example in policy.sentences if example.phrase == "a kitchen knife"} == {"test"}
    handgun = "a handgun pointed at a stranger"
    assert {e.split for e in policy.sentences if e.phrase == handgun} == {split_of(handgun)}
    assert sorted(e.text for split in SPLITS.values() for e in policy.examples(split)) == sorted(
        e.text for e in policy.examples()
    )


def test_the_hash_splits_phrases_seventy_fifteen_fifteen_for_ever() -> None:
    assert [split_of(phrase) for phrase in ("a kitchen knife", "blood", "a kiss", "a joke")] == [
        "validation",
        "fit",
        "validation",
        "fit",
    ]
    assert split_of("A  kitchen KNIFE") == split_of("a kitchen knife")
    counts = Counter(split_of(f"phrase {number}") for number in range(4000))
    assert counts["fit"] / 4000 == pytest.approx(0.70, abs=0.03)
    assert counts["validation"] / 4000 == pytest.approx(0.15, abs=0.03)


def test_pairs_come_beside_phrases_and_keep_their_rows(write: Write) -> None:
    rows = HEADER + 'weapons,bats,validation,"He hit me, hard, with a bat","He hit it, far, with a bat"\n'
    rows += "weapons,axes,,an axe over a sleeping man,an axe over a log\n"
    policy = read_policy(write(rows=rows))
    assert policy.sentences[-4:-2] == (
        Example("He hit me, hard, with a bat", True, "weapons", "bats", "validation", 4),
        Example("He hit it, far, with a bat", False, "weapons", "bats", "validation", 4),
    )
    assert policy.sentences[-1].split == split_of("axes")
    with pytest.raises(FrozenInstanceError):
        policy.sentences[0].unsafe = False  # type: ignore[misc]


def test_pairs_are_read_from_one_file_or_several_in_their_order(write: Write) -> None:
    path = write(f"{KITCHEN}pairs: [mine.csv, more.csv]\n")
    path.with_suffix(".csv").write_text(HEADER + "weapons,bats,fit,a bat on a head,a bat on a ball\n", encoding="utf-8")
    more = path.with_name("more.csv")
    more.write_text(HEADER + "weapons,bats,fit,he hit him,he hit it\n", encoding="utf-8")
    sentences = read_policy(path).sentences[-4:]
    assert [e.text for e in sentences] == ["a bat on a head", "a bat on a ball", "he hit him", "he hit it"]
    assert [e.pair for e in sentences] == [4, 4, 5, 5]
    for row, told in (("bats,test,x,y", "in test, and in fit at mine.csv, line 2"), ("clubs,fit,a,", "nothing")):
        more.write_text(f"{HEADER}weapons,{row}\n", encoding="utf-8")
        with pytest.raises(PolicyError, match=f"more.csv, line 2: .*{told}"):
            read_policy(path)
    more.unlink()
    with pytest.raises(PolicyError, match=r"more\.csv, the pairs of the policy, cannot be read"):
        read_policy(path)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("cooking,bats,fit,a,b", "line 3: the category 'cooking' is not one of weapons"),
        ("weapons,bats,train,a,b", "line 3: the split 'train' is not one of fit, validation, test"),
        ("weapons,bats,fit,a,", "line 3: nothing in safe"),
        ("weapons,,fit, ,b", "line 3: nothing in phrase and unsafe"),
        ("weapons,bats,fit,a, with a comma,b", "line 3: 6 fields, expected 5"),
        ("weapons,clubs,test,a,b", "line 3: the phrase 'clubs' is in test, and in fit at mine.csv, line 2"),
        ("weapons,CLUBS,test,a,b", "line 3: the phrase 'CLUBS' is in test"),
        ("weapons,bats,fit,it is at rest,b", "line 3: 'it is at rest' is unsafe, and safe at mine.csv, line 2"),
        ("weapons,bats,fit,a,It  swings", "line 3: 'It swings' is safe, and unsafe at mine.csv, line 2"),
        ("weapons,bats,fit,a,A", "line 3: 'A' is safe, and unsafe at mine.csv, line 3"),
        ("weapons,bats,test,it swings,b", "line 3: 'it swings' is in test, and in fit at mine.csv, line 2"),
        ('weapons,bats,fit,"a\nb",c', "line 4: a field spans lines"),
        ('weapons,bats,fit,"a,b', "unexpected end of data"),
        (
            "weapons,bats,test,a kitchen knife,b",
            "'a kitchen knife' is unsafe, and safe at categories.weapons.phrases.1",
        ),
    ],
)
def test_a_wrong_row_is_told_with_its_line(write: Write, row: str, told: str) -> None:
    with pytest.raises(PolicyError) as failed:
        read_policy(write(rows=f"{HEADER}weapons,clubs,fit,it swings,it is at rest\n{row}\n"))
    assert told in str(failed.value)
    assert "mine" in str(failed.value)


def test_many_faults_are_told_at_once_and_counted(write: Write) -> None:
    with pytest.raises(PolicyError) as failed:
        read_policy(write(rows=HEADER + "cooking,a,fit,b,c\n" * 9))
    assert [f"line {number}:" in str(failed.value) for number in (2, 6, 7)] == [True, True, False]
    assert "and 4 more" in str(failed.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: kitchen", "title: kitchen", "name: Field required; title: Extra inputs"),
        ("description: For the test.", "description: ''", "description: String should have at least 1 character"),
        ('"a photo of {}"', '"a photo"', "templates.1: Value error, a template has {} once"),
        ('"a photo of {}"', '"{} and {}"', "templates.1: Value error, a template has {} once"),
        ('["{}", "a photo of {}"]', "[]", "templates"),
        ("        safe: [a toy gun in its box, a starting pistol at a race]\n", "", "has no `safe` neighbour"),
        ("unsafe: a handgun", "unsafe: [yes, 7]\n        phrase: a handgun", "categories.weapons.phrases.0.unsafe.0"),
        ("unsafe: a handgun", "phrase: a handgun", "a `phrase` has `unsafe_only_if`, and `safe_otherwise`"),
        ("phrase: a kitchen knife", "unsafe: a kitchen knife", "belong to a `phrase`, not to `unsafe`"),
        ("phrase: a kitchen knife", "phrases: a kitchen knife", "phrases.1.phrases: Extra inputs"),
        ("phrase: a kitchen knife", "note: x", "phrases.1.note: Extra inputs"),
        ("        split: test\n", "        split: later\n", "phrases.1.split: Input should be 'fit'"),
        ("beside a chopping board", "held against a man's throat", 'throat" is safe, and unsafe at'),
        ("a toy gun in its box", "a handgun pointed at a stranger", "stranger' is safe, and unsafe at"),
        ("    phrases:\n", "    phrases: []\n  empty:\n    phrases:\n", "empty.description: Field required"),
        ("name: kitchen", "name: [kitchen", "cannot be read as YAML"),
        (KITCHEN, "- a list", "holds list, expected a table"),
        (KITCHEN, "", "holds NoneType, expected a table"),
        (KITCHEN, "name: a\ndescription: b\ncategories: {c: {description: d}}", "no phrases in c"),
        (KITCHEN, "name: a\ndescription: b\ncategories: {}", "categories: Dictionary should have at least 1"),
        ("categories:", "pairs: 7\ncategories:", "pairs: Input should be a valid tuple"),
        ("categories:", "pairs: [7]\ncategories:", "pairs.0: Input should be a valid string"),
        ("categories:", "pairs: other.csv\ncategories:", "other.csv, the pairs of the policy, cannot be read"),
    ],
)
def test_a_wrong_policy_is_told_with_its_place(write: Write, old: str, new: str, told: str) -> None:
    assert old in KITCHEN
    path = write(KITCHEN.replace(old, new))
    with pytest.raises(PolicyError) as failed:
        read_policy(path)
    assert told in str(failed.value)
    assert "mine.yaml" in str(failed.value) or "other.csv" in str(failed.value)


def test_a_wrong_header_and_a_wrong_encoding_are_told(write: Write) -> None:
    path = write(rows="category,unsafe,safe\n")
    with pytest.raises(PolicyError, match="has the columns category,unsafe,safe, expected category,phrase,split"):
        read_policy(path)
    path.with_suffix(".csv").write_bytes(HEADER.encode() + b"weapons,bats,fit,\xff,b\n")
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(path)


def test_the_page_shows_a_policy_that_is_read_and_python_that_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy-in-words.md").read_text(encoding="utf-8")
    shown, code = re.search(r"```yaml\n(.*?)```.*?```python\n(.*?)```", page, flags=re.S).groups()  # type: ignore[union-attr]
    path = tmp_path / "kitchen.yaml"
    path.write_text(shown, encoding="utf-8")
    assert Counter(example.unsafe for example in read_policy(path).sentences) == {True: 6, False: 8}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "policy-in-words.md", "exec"), {})
    assert [line.split()[0] for line in out.getvalue().splitlines()[1:]] == ["unsafe", "safe"]


def test_an_unknown_name_lists_those_that_come_with_the_package(tmp_path: Path) -> None:
    for name in ("general-2", tmp_path / "none.yaml"):
        with pytest.raises(InputError, match="general-wide, general, school, workplace"):
            read_policy(name)


@pytest.mark.parametrize("name", ["school", "workplace"])
def test_the_example_policies_show_every_form_in_each_category(name: str) -> None:
    policy = read_policy(name)
    assert 6 <= len(policy.categories) <= 10
    for category in policy.categories:
        mine = [example for example in policy.sentences if example.category == category]
        bare = {example.phrase for example in mine if not example.unsafe and example.text == example.phrase}
        assert bare, "no phrase that is unsafe only under a condition"
        assert Counter(example.unsafe for example in mine)[True] >= 9
    assert len({example.text for example in policy.sentences}) == len(policy.sentences) >= 3 * 60
    assert {example.split for example in policy.sentences} == set(SPLITS)


def test_bundled_policies_are_read_by_name_and_by_path() -> None:
    assert list(bundled_policies()) == ["general-wide", "general", "school", "workplace"]
    assert read_policy(bundled_policies()["school"]) == read_policy("school")


def test_general_is_as_large_as_its_datasheet_says(general: Policy) -> None:
    pairs = Counter(example.category for example in general.sentences if example.unsafe)
    assert min(pairs.values()) >= 100
    assert sum(pairs.values()) >= 800
    shares = Counter(example.split for example in general.sentences)
    for split, share in zip(SPLITS.values(), (0.7, 0.1, 0.2), strict=True):
        assert shares[split] / len(general.sentences) == pytest.approx(share, abs=0.03)
        assert {e.category for e in general.examples(split)} == set(general.categories) == set(pairs)


def test_plain_pairs_are_two_fifths_of_general_and_of_each_split_and_category_a_third() -> None:
    near, plain = map(rows, PAIRS)
    assert len(plain) >= 0.4 * (len(near) + len(plain))
    for column in ("split", "category"):
        counts = Counter(row[column] for row in plain)
        for value, count in Counter(row[column] for row in near + plain).items():
            assert counts[value] >= count / 3, value


@pytest.mark.parametrize("file", PAIRS)
def test_the_datasheet_of_general_has_the_counts_of_each_file(general: Policy, file: str) -> None:
    told = bundled_policies()["general"].with_suffix(".md").read_text(encoding="utf-8")
    for name in (*general.categories, "all"):
        mine = [row for row in rows(file) if name in ("all", row["category"])]
        counts = [len({row["phrase"] for row in mine}), len(mine)]
        counts += [sum(row["split"] == split for row in mine) for split in SPLITS]
        assert f"| {name} | {' | '.join(map(str, counts))} |" in told


def test_general_holds_the_pairs_of_both_files(general: Policy) -> None:
    written = {row[side] for file in PAIRS for row in rows(file) for side in ("unsafe", "safe")}
    assert {example.text for example in general.sentences} == written


def test_each_pair_of_general_has_one_unsafe_and_one_safe_sentence_and_no_sentence_comes_twice(general: Policy) -> None:
    pairs = defaultdict(list)
    for example in general.sentences:
        pairs[example.pair].append(example.unsafe)
    assert all(sides == [True, False] for sides in pairs.values())
    folded = [" ".join(example.text.split()).casefold() for example in general.sentences]
    assert len(set(folded)) == len(folded)


def test_phrases_of_general_lie_in_one_split_and_have_two_to_six_pairs(general: Policy) -> None:
    splits, sizes = defaultdict(set), Counter[str]()
    for example in general.sentences:
        splits[example.phrase].add((example.split, example.category))
        sizes[example.phrase] += example.unsafe
    assert {phrase for phrase, found in splits.items() if len(found) > 1} == set()
    assert {phrase: size for phrase, size in sizes.items() if not 2 <= size <= 6} == {}


def test_general_wide_is_general_with_more_to_learn_from(general: Policy) -> None:
    wide, more = read_policy("general-wide"), rows("general-wide.csv")
    assert wide.categories == general.categories
    for split in ("validation", "test"):
        assert wide.pairs(split) == general.pairs(split)
    assert {row["split"] for row in more} == {"fit"}
    assert wide.pairs("fit") == general.pairs("fit") + [(row["safe"], row["unsafe"]) for row in more]
    folded = [" ".join(example.text.split()).casefold() for example in wide.sentences]
    assert len(set(folded)) == len(folded)
    where = defaultdict(set)
    for example in wide.sentences:
        where[example.phrase].add((example.split, example.category))
    assert {phrase for phrase, found in where.items() if len(found) > 1} == set()


def test_no_sentence_to_learn_from_is_nearly_one_to_judge_by(general: Policy) -> None:
    def words(text: str) -> frozenset[str]:
        return frozenset(re.findall(r"\w+", text.casefold()))

    kept = [words(example.text) for split in ("validation", "test") for example in general.examples(split)]
    for row in rows("general-wide.csv"):
        for mine in (words(row["safe"]), words(row["unsafe"])):
            assert not any(len(mine & other) >= 0.6 * len(mine | other) for other in kept), row


def test_the_datasheet_of_general_wide_has_its_counts(general: Policy) -> None:
    told = bundled_policies()["general-wide"].with_suffix(".md").read_text(encoding="utf-8")
    more = rows("general-wide.csv")
    for name in (*general.categories, "all"):
        mine = [row for row in more if name in ("all", row["category"])]
        assert f"| {name} | {len({row['phrase'] for row in mine})} | {len(mine)} |" in told


def test_sentences_of_general_come_in_many_forms(general: Policy) -> None:
    words = [example.text.split() for example in general.sentences]
    families = Counter(" ".join(text[:4]).casefold() for text in words)
    assert max(families.values()) <= 0.03 * len(words)
    lengths = [len(text) for text in words]
    assert min(lengths) >= 3
    assert max(lengths) <= 30
    assert statistics.quantiles(lengths, n=10)[0] <= 5
    assert statistics.quantiles(lengths, n=10)[-1] >= 13
    questions = [example for example in general.sentences if example.text.endswith("?")]
    assert len(questions) >= 0.03 * len(words)
    first_person = [text for text in words if {"i", "my", "me", "we", "our"} & {word.casefold() for word in text}]
    assert len(first_person) >= 0.1 * len(words)


@pytest.mark.parametrize("name", ["general", "general-wide"])
def test_safe_and_unsafe_sentences_of_general_cannot_be_told_by_their_form(name: str) -> None:
    sentences = read_policy(name).sentences
    sides = {unsafe: [e.text for e in sentences if e.unsafe == unsafe] for unsafe in (True, False)}
    measures: dict[str, Callable[[str], float]] = {
        "words": lambda text: len(text.split()),
        "characters": len,
        "questions": lambda text: 10 * text.endswith("?"),
        "capitals": lambda text: 10 * text[0].isupper(),
        "commas": lambda text: 10 * text.count(","),
        "negations": lambda text: 10 * sum(w in {"no", "not", "never", "nobody"} for w in text.casefold().split()),
    }
    for name, measure in measures.items():
        unsafe, safe = (statistics.mean(map(measure, sides[side])) for side in (True, False))
        assert unsafe == pytest.approx(safe, rel=0.05, abs=0.5), name
