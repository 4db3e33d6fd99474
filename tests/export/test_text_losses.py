"""The loss of texts without pictures: laws of each term, and what a config takes."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from hysac_export.config import TextsConfig, TrainConfig
from hysac_export.data.glosses import COUNT, glosses
from hysac_export.data.policy import read_policy
from hysac_export.data.texts import TextFeed, in_company, unlabelled
from hysac_export.model.tokenizer import train_tokenizer
from hysac_export.training.losses import Quadruplets, radius_hinge
from hysac_export.training.texts import direction, level, moved, pictured, text_terms
from hysac_retrieval import lorentz
from hysac_retrieval.errors import PolicyError, TrainingError

RNG = torch.Generator().manual_seed(0)


def points(n: int, d: int = 6, radius: float = 1.0) -> torch.Tensor:
    directions = torch.nn.functional.normalize(torch.randn(n, d, generator=RNG, dtype=torch.float64), dim=1)
    return lorentz.exp_map0(radius * directions, 1.0)


def unit(n: int, d: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=RNG, dtype=torch.float64), dim=1)


def test_directions_that_have_the_cosines_of_the_vectors_cost_nothing_at_any_radius() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(7, 6, generator=RNG, dtype=torch.float64), dim=1)
    radii = torch.rand(7, 1, generator=RNG, dtype=torch.float64) + 0.5
    assert direction(radii * vectors, vectors, 0.05).item() == pytest.approx(0, abs=1e-12)
    assert direction(points(7), vectors, 0.05).item() > 0.1


def test_the_divergence_of_directions_is_the_one_computed_by_hand() -> None:
    x, y = (torch.nn.functional.normalize(torch.randn(3, 4, generator=RNG, dtype=torch.float64)) for _ in range(2))
    expected = 0.0
    for i in range(3):
        others = [j for j in range(3) if j != i]
        p, q = (np.exp([float(v[i] @ v[j]) / 0.1 for j in others]) for v in (y, x))
        p, q = p / p.sum(), q / q.sum()
        expected += float((p * np.log(p / q)).sum()) / 3
    assert direction(x, y, 0.1).item() == pytest.approx(expected)


def test_a_moved_text_is_to_be_nearest_to_its_own_twin() -> None:
    safe = points(8, d=32)
    beyond = lorentz.exp_map0(2.0 * safe / safe.norm(dim=1, keepdim=True), 1.0)  # twins further out, all else the same
    assert moved(safe, beyond, 1.0, 1.0, 20.0).item() < 0.05
    assert moved(safe, beyond.roll(1, 0), 1.0, 1.0, 20.0).item() > 3


def found(scene: Quadruplets, texts: torch.Tensor, vectors: torch.Tensor, captions: torch.Tensor) -> float:
    return pictured(texts, vectors, scene, captions, torch.tensor(1.0), torch.tensor(20.0), 0.05).item()


def test_a_text_is_to_find_the_pictures_of_its_own_side_whose_captions_are_most_like_it() -> None:
    directions, captions = unit(8, 32), unit(8, 32)
    safe, unsafe = (lorentz.exp_map0(r * directions[part], 1.0) for r, part in ((1.0, slice(4)), (2.0, slice(4, 8))))
    scene, near = Quadruplets(safe, safe, unsafe, unsafe), torch.cat([safe[:2], unsafe[:2]])
    own = captions[[0, 1, 4, 5]]
    assert found(scene, near, own, captions) < 0.1
    assert found(scene, near[[1, 0, 3, 2]], own, captions) > 3  # the pictures of others
    assert found(scene, near[[2, 3, 0, 1]], own[[2, 3, 0, 1]], captions) > 3  # of the other side, however like
    assert found(scene, near.roll(1, 0), own, captions) > 3


def test_the_divergence_from_pictures_is_the_one_computed_by_hand_and_a_side_may_lack_them() -> None:
    groups = [points(3, radius=r) for r in (1.0, 1.5, 2.0, 2.5)]
    texts, vectors, captions = points(4), unit(4, 5), unit(6, 5)
    shown = torch.tensor([True, False, True])
    for unsafe_shown in (shown, torch.zeros(3, dtype=torch.bool)):
        scene = replace(Quadruplets(*groups), unsafe_shown=unsafe_shown)
        images = scene.images()
        expected = 0.0
        for i in range(4):
            told = captions[:3] if i < 2 else captions[3:][unsafe_shown]
            if not len(told):
                continue
            p = np.exp((told @ vectors[i] / 0.05).numpy())
            q = np.exp(-20 * np.array([float(lorentz.dist(texts[i], image, 1.0)) for image in images]))
            own = q[:3] if i < 2 else q[3:]
            expected += float((p / p.sum() * np.log(p / p.sum() / (own / q.sum()))).sum()) / 4
        assert found(scene, texts, vectors, captions) == pytest.approx(expected)


def test_texts_and_captions_lie_at_one_level_if_each_side_is_below_the_others_unsafe_one() -> None:
    one = torch.tensor(1.0)
    scene = Quadruplets(*(points(5, radius=r) for r in (1.0, 1.5, 2.0, 2.5)))

    def cost(safe: float, unsafe: float) -> float:
        return level(points(3, radius=safe), points(3, radius=unsafe), scene, one, 0.4).item()

    assert cost(1.2, 1.8) == pytest.approx(0)  # the margin is twice the gap, on either side
    assert cost(1.6, 2.4) == pytest.approx((1.6 + 0.8 - 2.0) / 2)  # safe texts lie where unsafe captions do
    assert cost(0.2, 1.0) == pytest.approx((1.0 + 0.8 - 1.0) / 2)  # unsafe texts lie where safe captions do


def test_captions_learn_of_the_level_too() -> None:
    groups = [points(5, radius=r).requires_grad_() for r in (2.0, 2.1, 2.2, 2.3)]
    level(points(4, radius=2.0), points(4, radius=2.1), Quadruplets(*groups), torch.tensor(1.0), 0.4).backward()
    assert [group.grad is not None for group in groups] == [True, False, True, False]


def test_texts_are_ordered_among_pictures_that_learn_nothing_of_it() -> None:
    groups = [points(5, radius=r).requires_grad_() for r in (1.0, 1.5, 2.0, 2.5)]
    scene = Quadruplets(groups[0], groups[1], groups[2], groups[3])
    safe, unsafe, others = (points(n, radius=r).requires_grad_() for n, r in ((4, 2.2), (4, 0.5), (6, 1.0)))
    vectors = tuple(unit(n, 3) for n in (4, 4, 6))
    config = TextsConfig(radius=2.0, moved=0.5, direction=3.0, pictured=4.0)
    one, scale, captions = torch.tensor(1.0), torch.tensor(10.0), unit(10, 3)
    total, terms = text_terms((safe, unsafe, others), vectors, scene, captions, one, scale, config, 0.4)
    total.backward()
    assert all(group.grad is None for group in groups)
    assert all(float(x.grad.abs().sum()) > 0 for x in (safe, unsafe, others))
    hinge = radius_hinge(Quadruplets(safe, groups[1], unsafe, groups[3]), 1.0, 0.4)
    assert terms["texts/radius"].item() == pytest.approx(hinge.item())
    weighted = 2 * terms["texts/radius"] + 0.5 * terms["texts/moved"]
    weighted = weighted + 3 * (terms["texts/direction"] + terms["texts/others"]) + 4 * terms["texts/pictured"]
    assert total.item() == pytest.approx(weighted.item())
    less, found = text_terms((safe, unsafe, others), vectors, scene, None, one, scale, config, 0.4)
    assert set(terms) - set(found) == {"texts/pictured"}
    levelled = config.model_copy(update={"level": 5.0})
    more, found = text_terms((safe, unsafe, others), vectors, scene, None, one, scale, levelled, 0.4)
    assert more.item() == pytest.approx(less.item() + 5 * found["texts/level"].item())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = train_tokenizer(["a dog and a knife"] * 3, 300)
    made.enable_truncation(250)
    made.enable_padding(length=250)
    return made


def test_texts_of_a_step_depend_on_seed_and_step_and_come_once_in_a_round(tokenizer: Tokenizer) -> None:
    feed, again, other = (TextFeed(TextsConfig(pairs=40), tokenizer, seed) for seed in (0, 0, 1))
    assert torch.equal(feed.batch(3).unsafe, again.batch(3).unsafe)
    assert not torch.equal(feed.batch(3).unsafe, other.batch(3).unsafe)
    pairs = read_policy("general").pairs("fit")
    rounds = len(pairs) // 40
    rows = torch.cat([feed.batch(step).unsafe for step in range(rounds)])
    assert len({tuple(row.tolist()) for row in rows}) == 40 * rounds
    assert not torch.equal(feed.batch(0).unsafe, feed.batch(rounds).unsafe)


def test_texts_in_company_are_left_out_where_they_would_be_cut(tokenizer: Tokenizer) -> None:
    def count(company: int, limit: int) -> int:
        cut = Tokenizer.from_str(tokenizer.to_str())
        cut.enable_truncation(limit)
        with pytest.raises(TrainingError, match=r"there are (\d+) texts") as refused:
            TextFeed(TextsConfig(pairs=10**6, company=company), cut, 0)
        return int(re.findall(r"\d+", str(refused.value))[0])

    assert count(0, 60) == 1411
    assert 1411 < count(1, 60) < count(1, 1000) == 2 * 1411


def test_only_the_fit_split_of_a_policy_is_learned_and_twins_stay_together(tokenizer: Tokenizer) -> None:
    policy = read_policy("general")
    pairs = policy.pairs("fit")
    kept = {e.text for split in ("validation", "test") for e in policy.examples(split)}
    assert len(pairs) == 1411
    assert not kept & {text for pair in pairs for text in pair}
    number = {e.text: (e.pair, e.unsafe) for e in policy.examples()}
    assert all(number[safe] == (number[unsafe][0], False) and number[unsafe][1] for safe, unsafe in pairs)


def test_in_company_a_text_stands_among_safe_ones_that_are_the_same_for_its_twin() -> None:
    pairs = [(f"safe {i}", f"unsafe {i}") for i in range(20)]
    found = in_company(pairs, 2, 0)
    assert found == in_company(pairs, 2, 0) != in_company(pairs, 2, 1)
    assert in_company(pairs, 0, 0) == []
    sides = [[text.split(". ") for text in pair] for pair in found]
    assert {len(safe) for safe, _ in sides} == {2, 3, 4}
    differing = [[pair for pair in zip(*both, strict=True) if pair[0] != pair[1]] for both in sides]
    assert differing == [[pair] for pair in pairs * 2]
    assert {unsafe.index(pair[1]) for (_, unsafe), [pair] in zip(sides, differing, strict=True)} == {0, 1, 2, 3}


def test_unlabelled_texts_are_lines_of_files_or_definitions(tmp_path) -> None:
    (tmp_path / "texts.txt").write_text("one\n\ntwo \none\n", encoding="utf-8")
    assert unlabelled([str(tmp_path / "texts.txt")]) == ["one", "two"]
    found = unlabelled(["glosses"])
    assert len(found) == COUNT
    assert all(4 <= len(text.split()) <= 24 and ": " in text for text in found)
    with pytest.raises(TrainingError, match=r"none\.txt' cannot be read"):
        unlabelled([str(tmp_path / "none.txt")])


def test_a_definition_is_read_from_the_files_of_wordnet(tmp_path) -> None:
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("  1 This software and database\n", encoding="ascii")
    line = '00002684 03 n 02 object 0 physical_object 0 000 | a tangible and (very) visible entity; "it was full"  \n'
    with (tmp_path / "data.noun").open("a", encoding="ascii") as file:
        file.write(line + line.replace("object 0", "big_object(a) 0", 1).replace("a tangible and", "x"))
    assert glosses(tmp_path) == ["object: a tangible and visible entity", "big object: x visible entity"]


def test_a_config_is_refused_for_what_it_asks_of_texts(tokenizer: Tokenizer, tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"set model\.text\.pretrained"):
        TrainConfig.load("mini-scenes", texts={})
    with pytest.raises(TrainingError, match=r"brings a text tower of its own"):
        TrainConfig.load("vit-b-16-24gb", **{"model.text.pretrained": "any"})
    with pytest.raises(PolicyError, match="there is no policy 'none'"):
        TextFeed(TextsConfig(policy="none"), tokenizer, 0)
    (tmp_path / "few.txt").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"there are 2 texts, and texts\.others asks for 64"):
        TextFeed(TextsConfig(unlabelled=str(tmp_path / "few.txt")), tokenizer, 0)
