"""Scenes: what the splits promise, what captions and pictures hold, and that only the content gives safety away."""

import json
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hysac_export.data.scenes import (
    CATEGORIES,
    KNOWN_STYLES,
    SPLITS,
    TRAIN_STYLES,
    UNSEEN_STYLES,
    Artist,
    Scene,
    caption,
    catalogue,
    label,
    quadruplets,
    styles_for,
)
from hysac_export.data.scenes.art import PACKAGES, write_atlases
from hysac_export.data.scenes.backgrounds import paint
from hysac_export.data.scenes.captions import MAX_WORDS
from hysac_export.data.scenes.catalogue import parse_catalogue
from hysac_export.data.scenes.checks import background_features, held_out_auc, leaks
from hysac_export.data.scenes.cli import GALLERY_QUADRUPLETS, GALLERY_SEED, gallery_scenes, scenes
from hysac_export.data.scenes.splits import Use, stable_hash, use, uses
from hysac_export.data.scenes.sprites import DRAWS, restyle, sprite_index, styles_of
from hysac_retrieval.errors import SettingsError, TrainingError

KNOWN = catalogue().entities
MANY = {split: quadruplets(split, 600, 0) for split in SPLITS}
SURROUNDINGS = '[settings]\nsea = { phrases = ["at sea"] }\n[lights]\nday = { phrases = ["by day"] }\n'


# ---- catalogue


def test_every_entity_is_drawn_in_two_known_styles_or_more() -> None:
    few = [e for e in KNOWN if len(set(styles_of(e)) & set(KNOWN_STYLES)) < 2]
    assert few == []


def test_the_unseen_style_has_entities_of_both_kinds() -> None:
    drawn = [KNOWN[e] for e in sprite_index().styles[UNSEEN_STYLES[0]]]
    assert sum(e.unsafe and not e.held_out for e in drawn) >= 10
    assert sum(not e.category for e in drawn) >= 200


def test_unsafe_entities_cover_all_categories_in_training() -> None:
    assert {e.category for e in KNOWN.values() if e.unsafe and not e.held_out} == set(CATEGORIES)
    assert {e.category for e in KNOWN.values() if e.held_out} == set(CATEGORIES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('[a]\nx = { nouns = [] }', "no nouns"),
        ('[a]\nx = { nouns = ["x"], colour = "red" }', "unknown fields"),
        ('[a]\nx = { nouns = ["x"] }\ny = { nouns = ["x"] }', "both 'x' and 'y'"),
        ('[a]\nx = { nouns = ["x"] }\n[b]\nx = { nouns = ["y"] }', "twice"),
        ('[a]\nx = { nouns = ["x"], unsafe = "rude" }', "none of the categories"),
        ('[a]\nx = { nouns = ["x"], unsafe = "drugs", safe_with = ["y"] }', "needs both"),
        (
            '[a]\ny = { nouns = ["y"] }\n'
            'x = { nouns = ["x"], unsafe = "drugs", safe_with = ["y"], unsafe_with = ["y"] }',
            "both safe and unsafe",
        ),
        ('[a]\nx = { nouns = ["x"], unsafe = "drugs", safe_with = ["p"], unsafe_with = ["q"] }', "companion"),
    ],
)  # fmt: skip
def test_a_contradictory_catalogue_is_refused_with_its_reason(line: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        parse_catalogue(SURROUNDINGS + line)


# ---- labels


def test_company_decides_about_a_knife() -> None:
    assert not label(["cook", "knife"])
    assert label(["baby", "knife"])
    assert not label(["baby", "cook"])
    assert label(["cook", "knife", "bomb"])


@pytest.mark.parametrize("entities", [["knife", "whale"], ["knife", "cook", "baby"]])
def test_a_knife_without_clear_company_has_no_label(entities: list[str]) -> None:
    with pytest.raises(SettingsError, match="exactly one"):
        label(entities)


@pytest.mark.parametrize("split", SPLITS)
def test_labels_follow_from_the_catalogue(split: str) -> None:
    for q in MANY[split]:
        assert (label(q.safe.entities), label(q.unsafe.entities)) == (False, True)
        assert (q.safe.unsafe, q.unsafe.unsafe) == (False, True)


# ---- sampling


@pytest.mark.parametrize("split", SPLITS)
def test_fewer_quadruplets_are_a_prefix_of_more(split: str) -> None:
    assert quadruplets(split, 40, 0) == MANY[split][:40]
    assert quadruplets(split, 40, 1) != MANY[split][:40]


@pytest.mark.parametrize("split", SPLITS)
def test_twins_share_surroundings_and_entities(split: str) -> None:
    shared: Counter[str | int] = Counter()
    for q in MANY[split]:
        assert (q.safe.setting, q.safe.light) == (q.unsafe.setting, q.unsafe.light)
        assert (
            2
            <= min(len(q.safe.entities), len(q.unsafe.entities))
            <= max(map(len, (q.safe.entities, q.unsafe.entities)))
            <= 4
        )
        assert abs(len(q.safe.entities) - len(q.unsafe.entities)) <= 1
        shared[len(set(q.safe.entities) & set(q.unsafe.entities))] += 1
    assert shared[0] == 0
    assert shared[1] < 0.15 * len(MANY[split])


@pytest.mark.parametrize("split", SPLITS)
def test_no_quadruplet_comes_twice(split: str) -> None:
    assert len({(q.safe.entities, q.unsafe.entities) for q in MANY[split]}) == len(MANY[split])


def test_no_scene_of_one_split_occurs_in_another() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for split in SPLITS:
        for q in MANY[split]:
            for scene in (q.safe, q.unsafe):
                assert seen.setdefault(scene.entities, split) == split


def test_training_scenes_hold_no_pair_of_another_split() -> None:
    for q in MANY["train"]:
        assert uses(q.safe.entities) | uses(q.unsafe.entities) == {Use.TRAIN}


@pytest.mark.parametrize("split", ["test", "entities", "style"])
def test_both_scenes_of_a_test_quadruplet_hold_a_new_pair_and_nothing_that_company_decides(split: str) -> None:
    for q in MANY[split]:
        for scene in (q.safe, q.unsafe):
            assert Use.TEST in uses(scene.entities)
            assert not any(KNOWN[e].context for e in scene.entities)


def test_pairs_of_every_use_keep_their_share() -> None:
    counts = Counter(use(a, b) for a, b in combinations(KNOWN, 2))
    total = sum(counts.values())
    assert counts[Use.TEST] / total == pytest.approx(0.1, abs=0.01)
    assert counts[Use.VALIDATION] / total == pytest.approx(0.1, abs=0.01)


def test_the_hash_that_splits_never_changes() -> None:
    assert [stable_hash("cook", "knife"), stable_hash("baby", "cat")] == [169569325, 2362638396]


def test_context_scenes_are_decided_by_companions_that_training_never_sees() -> None:
    decided = 0
    for q in MANY["context"]:
        for scene in (q.safe, q.unsafe):
            for thing in (KNOWN[e] for e in scene.entities if KNOWN[e].context):
                for other in set(scene.entities) & set(thing.safe_with + thing.unsafe_with):
                    assert use(thing.id, other) is Use.CONTEXT
                    decided += 1
    assert decided > 600


def test_training_keeps_three_companions_of_each_kind_for_each_thing_that_they_decide_about() -> None:
    for thing in (e for e in KNOWN.values() if e.context):
        for side in (thing.safe_with, thing.unsafe_with):
            assert sum(use(thing.id, other) is Use.TRAIN for other in side) >= 3


def test_only_the_split_of_unseen_entities_shows_those_held_out() -> None:
    for split in SPLITS:
        for q in MANY[split]:
            assert any(KNOWN[e].held_out for e in q.unsafe.entities) == (split == "entities")


def test_scenes_of_the_unseen_style_can_be_drawn_in_it() -> None:
    assert all("fxemoji" in styles_of(e) for q in MANY["style"] for s in (q.safe, q.unsafe) for e in s.entities)


def test_a_third_of_the_training_quadruplets_is_about_context() -> None:
    assert np.mean([q.context for q in MANY["train"]]) == pytest.approx(0.35, abs=0.06)


def test_what_company_decides_about_occurs_as_often_on_both_sides() -> None:
    found = quadruplets("train", 6000, 1)
    safe, unsafe = (Counter(e for q in found for e in getattr(q, side).entities) for side in ("safe", "unsafe"))
    things = [e for e in KNOWN if KNOWN[e].context]
    assert sum(unsafe[e] for e in things) / sum(safe[e] + unsafe[e] for e in things) == pytest.approx(0.5, abs=0.05)
    companions = {other for e in things for other in KNOWN[e].safe_with + KNOWN[e].unsafe_with}
    shares = {e: unsafe[e] / (safe[e] + unsafe[e]) for e in companions}
    assert {e for e, share in shares.items() if not 0.2 < share < 0.65} == set()


@pytest.mark.parametrize(("split", "n"), [("nowhere", 1), ("train", -1)])
def test_a_split_or_a_number_that_does_not_exist_is_refused(split: str, n: int) -> None:
    with pytest.raises(SettingsError):
        quadruplets(split, n, 0)


# ---- captions


def test_captions_name_every_entity_once_and_stay_short() -> None:
    rng = np.random.default_rng(0)
    for q in MANY["train"]:
        for scene in (q.safe, q.unsafe):
            text = caption(scene, rng)
            assert text == text.lower()
            assert len(text.split()) <= MAX_WORDS
            for e in scene.entities:
                assert any(noun.removeprefix("some ") in text for noun in KNOWN[e].nouns), (e, text)


def test_captions_vary_and_repeat_with_the_generator() -> None:
    scene = MANY["train"][0].safe
    first, again = ([caption(scene, rng) for _ in range(50)] for rng in map(np.random.default_rng, (3, 3)))
    assert first == again
    assert len(set(first)) > 40


def test_articles_agree_with_their_nouns() -> None:
    scene = Scene(("apple", "unicorn", "elephant", "umbrella"), "sea", "day", unsafe=False)
    text = " ".join(caption(scene, np.random.default_rng(i)) for i in range(60))
    assert "an apple" in text
    assert "a unicorn" in text
    assert " a elephant" not in text
    assert " a umbrella" not in text


def test_seven_captions_in_ten_name_the_setting() -> None:
    scene = Scene(("dog", "cat"), "beach", "night", unsafe=False)
    texts = [caption(scene, np.random.default_rng(i)) for i in range(1000)]
    known = catalogue()
    for phrases, share in ((known.settings["beach"].phrases, 0.7), (known.lights["night"].phrases, 0.35)):
        assert np.mean([any(p in t for p in phrases) for t in texts]) == pytest.approx(share, abs=0.05)


# ---- pictures


def test_the_same_generator_draws_the_same_picture() -> None:
    scene = MANY["train"][0].unsafe
    one, two = Artist(), Artist()
    one.draw(MANY["train"][1].safe, np.random.default_rng(9))  # what an artist drew before plays no part
    first, second = (a.draw(scene, np.random.default_rng(5)) for a in (one, two))
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert (one.draw(scene, np.random.default_rng(6)) != first).any()


def test_a_traced_picture_is_the_picture_and_says_where_everything_is() -> None:
    artist = Artist()
    for seed, q in enumerate(MANY["train"][:30]):
        drawing = artist.trace(q.safe, np.random.default_rng(seed))
        np.testing.assert_array_equal(drawing.pixels, artist.draw(q.safe, np.random.default_rng(seed)))
        assert set(drawing.boxes) == set(q.safe.entities)
        boxes = np.zeros_like(drawing.covered)
        for x, y, edge in drawing.boxes.values():
            assert 18 <= edge <= 34
            assert min(x, y) >= 0
            assert max(x, y) + edge <= 64
            boxes[y : y + edge, x : x + edge] = True
        assert not (drawing.covered & ~boxes).any()
        assert 0.05 < drawing.covered.mean() < 0.8


def test_restyled_sprites_look_different_and_stay_where_they_are() -> None:
    plain, anew = Artist(), Artist(restyled=1.0)
    for seed, q in enumerate(MANY["train"][:20]):
        before, after = (artist.trace(q.safe, np.random.default_rng(seed)) for artist in (plain, anew))
        assert before.boxes == after.boxes
        kept = (before.pixels == after.pixels).all(axis=2)
        outside = np.ones_like(kept)
        for x, y, edge in after.boxes.values():
            outside[y : y + edge, x : x + edge] = False
        assert kept[outside].all()
        assert kept[before.covered].mean() < 0.3
        np.testing.assert_array_equal(after.pixels, anew.draw(q.safe, np.random.default_rng(seed)))


def test_a_restyled_sprite_keeps_its_size_and_no_colour_outshines_its_alpha() -> None:
    rng = np.random.default_rng(0)
    for entity in ("dog", "axe", "book"):
        sprite = Artist(("noto",))._sprite(entity, "noto", 0.0, 30)
        for _ in range(20):
            out = restyle(sprite, rng.random(DRAWS).tolist())
            assert (out.shape, out.dtype) == (sprite.shape, np.dtype(np.uint8))
            assert (out[..., :3] <= out[..., 3:].astype(int) + 1).all()
            assert 0.5 < (out[..., 3] > 0).sum() / (sprite[..., 3] > 0).sum() < 2


def test_sprites_hardly_overlap() -> None:
    artist = Artist()
    for seed, q in enumerate(MANY["train"][:100]):
        boxes = artist.trace(q.unsafe, np.random.default_rng(seed)).boxes.values()
        for (x, y, a), (v, w, b) in combinations(boxes, 2):
            across, down = (max(0, min(p + a, r + b) - max(p, r)) for p, r in ((x, v), (y, w)))
            assert across * down <= 0.45 * min(a, b) ** 2


def test_another_size_scales_the_sprites() -> None:
    edges = [e for *_, e in Artist(size=128).trace(MANY["train"][0].safe, np.random.default_rng(0)).boxes.values()]
    assert all(36 <= edge <= 68 for edge in edges)


def test_settings_and_lights_can_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    day, night = (
        np.mean([paint(s, light, rng, 64).mean() for s in catalogue().settings]) for light in ("day", "night")
    )
    assert day > 1.5 * night
    colours = [paint(s, "day", rng, 64).mean((0, 1)) for s in ("sea", "desert", "meadow")]
    assert [int(c.argmax()) for c in colours] == [2, 0, 1]


@pytest.mark.parametrize(("styles", "size"), [((), 64), (("crayon",), 64), (KNOWN_STYLES, 16)])
def test_an_artist_refuses_styles_and_sizes_that_do_not_work(styles: tuple[str, ...], size: int) -> None:
    with pytest.raises(SettingsError):
        Artist(styles, size)


def test_an_artist_says_which_style_has_an_entity_that_its_own_lack() -> None:
    with pytest.raises(SettingsError, match="noto"):
        Artist(("fxemoji",)).draw(Scene(("axe", "dog"), "sea", "day", unsafe=False), np.random.default_rng(0))


def test_styles_of_the_splits() -> None:
    assert styles_for("style") == ("fxemoji",)
    assert styles_for("test") == styles_for("validation") == KNOWN_STYLES
    assert styles_for("train") == TRAIN_STYLES
    assert set(KNOWN_STYLES) < set(TRAIN_STYLES)
    assert not set(UNSEEN_STYLES) & set(TRAIN_STYLES)
    with pytest.raises(SettingsError):
        styles_for("nowhere")


# ---- leaks


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "entities"])
def test_nothing_but_the_content_tells_safe_from_unsafe(split: str) -> None:
    found = leaks(split, 4000, 0)
    assert set(found) == {"background", "length", "layout", "place"}
    assert {suspect: auc for suspect, auc in found.items() if abs(auc - 0.5) > 0.03} == {}


def test_the_classifier_would_find_a_background_that_leaks() -> None:
    artist, rng = Artist(), np.random.default_rng(0)
    rows, labels = [], []
    for q in MANY["train"][:300]:
        for scene in (q.safe, q.unsafe):
            darker = replace(scene, light="night") if scene.unsafe else scene
            rows.append(background_features(artist.trace(darker, rng)))
            labels.append(scene.unsafe)
    assert held_out_auc(np.stack(rows), np.array(labels)) > 0.65


# ---- commands and artwork


def test_a_contact_sheet_is_written(tmp_path: Path) -> None:
    run = CliRunner().invoke(scenes, ["sheet", "--split", "context", "-n", "5", "--out", str(tmp_path / "sheet.png")])
    assert run.exit_code == 0, run.output
    with Image.open(tmp_path / "sheet.png") as page:
        assert page.size[0] > page.size[1] > 128


@pytest.mark.slow
def test_written_quadruplets_can_be_read_back(tmp_path: Path) -> None:
    run = CliRunner().invoke(scenes, ["write", "--split", "test", "-n", "6", "--seed", "2", "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    rows = [json.loads(line) for line in (tmp_path / "quadruplets.jsonl").read_text().splitlines()]
    assert [tuple(r["unsafe_entities"]) for r in rows] == [q.unsafe.entities for q in quadruplets("test", 6, 2)]
    for row in rows:
        with Image.open(tmp_path / row["safe_image"]) as picture:
            assert picture.size == (64, 64)


def test_the_bundled_gallery_is_what_its_command_writes() -> None:
    bundled = files("hysac_retrieval") / "demo" / "gallery"
    rows = [json.loads(line) for line in (bundled / "captions.jsonl").read_text("utf-8").splitlines()]
    drawn = list(gallery_scenes())
    assert rows == [row for row, _ in drawn]
    for row, pixels in drawn:
        with (bundled / "images" / str(row["file"])).open("rb") as file:
            np.testing.assert_array_equal(np.asarray(Image.open(file)), pixels)
    assert Counter(row["unsafe"] for row in rows) == {True: GALLERY_QUADRUPLETS, False: GALLERY_QUADRUPLETS}


def test_the_gallery_command_writes_pictures_and_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hysac_export.data.scenes.cli.GALLERY_QUADRUPLETS", 2)
    run = CliRunner().invoke(scenes, ["gallery", "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text("utf-8").splitlines()]
    assert [row["file"] for row in rows] == sorted(path.name for path in (tmp_path / "images").iterdir())
    assert sum(row["unsafe"] for row in rows) == 2


def test_gallery_scenes_occur_in_no_evaluation() -> None:
    held = {(q.safe.entities, q.unsafe.entities) for q in quadruplets("test", GALLERY_QUADRUPLETS, GALLERY_SEED)}
    assert not held & {(q.safe.entities, q.unsafe.entities) for q in quadruplets("test", 1000, 0)}


def _packages(folder: Path, **icons: str) -> None:
    for style in PACKAGES:
        (folder / style).mkdir()
        content = {"icons": {name: {"body": body} for name, body in icons.items()}, "width": 32, "height": 32}
        (folder / style / "icons.json").write_text(json.dumps(content))


def test_sprites_are_drawn_from_icon_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    small = parse_catalogue(SURROUNDINGS + '[a]\nx = { nouns = ["x"] }\ny = { nouns = ["y"], fxemoji = "x" }')
    monkeypatch.setattr("hysac_export.data.scenes.art.catalogue", lambda: small)
    packages = tmp_path / "packages"
    packages.mkdir()
    square = '<path d="M0 0h16v32H0z" fill="#ff0000"/>'
    _packages(packages, x=square, y=square)
    write_atlases(packages, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["styles"]["noto"]["entities"] == ["x", "y"]
    assert index["styles"]["fxemoji"]["entities"] == ["y"]
    with Image.open(tmp_path / "out" / "noto.webp") as atlas:
        pixels = np.asarray(atlas.convert("RGBA"))
        assert pixels[5, 5].tolist() == [255, 0, 0, 255]
        assert pixels[5, 40, 3] == 0


@pytest.mark.parametrize(
    ("entities", "message"),
    [('x = { nouns = ["x"], noto = "lost" }', "no icon 'lost'"), ('z = { nouns = ["z"] }', "fewer than two")],
)
def test_missing_artwork_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entities: str, message: str
) -> None:
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(
        "hysac_export.data.scenes.art.catalogue", lambda: parse_catalogue(SURROUNDINGS + "[a]\n" + entities)
    )
    packages = tmp_path / "packages"
    packages.mkdir()
    _packages(packages, x='<path d="M0 0h9v9z"/>')
    with pytest.raises(TrainingError, match=message):
        write_atlases(packages, tmp_path / "out")
