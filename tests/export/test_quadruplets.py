"""Quadruplets in files: every kind of source, the split, the check, and what a run makes of them."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hysac_export.config import DataConfig, LossConfig, TrainConfig
from hysac_export.data.batches import Batch
from hysac_export.data.feed import FileFeed, open_feed
from hysac_export.data.quadruplets.batches import FileBatches
from hysac_export.data.quadruplets.rows import BadRow, QuadrupletRow, Slice, Spool, read_quadruplets
from hysac_export.data.quadruplets.sets import QuadrupletSets, draw_files, held_out, image_spec, read_picture
from hysac_export.model.hysac import HySAC
from hysac_export.training.engine import Engine
from hysac_export.training.train import Trainer, check_data
from hysac_retrieval.errors import SourceError, TrainingError

N = 24
MODEL = {
    "dim": 16,
    "image": {"size": 32, "patch": 8, "width": 32, "layers": 1, "head_width": 16},
    "text": {"context_length": 16, "vocab_size": 300, "width": 32, "layers": 1, "heads": 2},
}
CATEGORIES = ("noise", "dark")


def colour(number: int, side: str) -> tuple[int, int, int]:
    return (number * 10, 200, 0) if side == "safe" else (number * 10, 0, 200)


def png(number: int, side: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 36), colour(number, side)).save(stream, "PNG")
    return stream.getvalue()


def records(n: int = N) -> list[dict[str, Any]]:
    return [
        {
            "safe": f"a calm scene {i}",
            "unsafe": f"a loud scene {i}",
            "safe_image": f"pictures/{i}-safe.png",
            "unsafe_image": f"pictures/{i}-unsafe.png",
            "category": CATEGORIES[i % 2],
        }
        for i in range(n)
    ]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "quadruplets.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures of `records` and a table of them."""
    made = tmp_path_factory.mktemp("set")
    (made / "pictures").mkdir()
    for i in range(N):
        for side in ("safe", "unsafe"):
            (made / "pictures" / f"{i}-{side}.png").write_bytes(png(i, side))
    write(made, records())
    return made


def config(source: Path | str, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "steps": 4,
        "batch_size": 8,
        "workers": 0,
        "threads": 1,
        "log_every": 1,
        "model": MODEL,
        "loss": {"joint": 1.0, "radius": 1.0},
        "data": {"train": str(source), "holdout": 0.25},
    }
    for key, value in changes.items():
        settings[key] = settings[key] | value if isinstance(value, dict) and key in settings else value
    return TrainConfig.model_validate(settings)


def read(*sources: Path | str) -> tuple[list[QuadrupletRow], list[BadRow], Spool]:
    spool = Spool()
    found = list(read_quadruplets(map(str, sources), spool))
    return [x for x in found if isinstance(x, QuadrupletRow)], [x for x in found if isinstance(x, BadRow)], spool


def mean_colours(row: QuadrupletRow) -> list[list[float]]:
    spec = image_spec(32)
    return [read_picture(p, spec).mean((0, 1)).tolist() for p in (row.safe_image, row.unsafe_image) if p is not None]


def _csv(folder: Path) -> Path:
    rows = records()
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / "quadruplets.csv").write_text("\n".join(lines) + "\n")
    return folder / "quadruplets.csv"


def _json(folder: Path) -> Path:
    (folder / "quadruplets.json").write_text(json.dumps(records()))
    return folder / "quadruplets.json"


def _parquet(folder: Path) -> Path:
    table = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row | {f"{side}_image": png(i, side) for side in ("safe", "unsafe")} for i, row in enumerate(records())]
    parquet.write_table(table.Table.from_pylist(rows), folder / "quadruplets.parquet")
    return folder / "quadruplets.parquet"


def _dataset(folder: Path) -> str:
    datasets = pytest.importorskip("datasets")
    rows = [
        row | {f"{side}_image": Image.open(io.BytesIO(png(i, side))) for side in ("safe", "unsafe")}
        for i, row in enumerate(records())
    ]
    split = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train": split, "test": split.select([0])}).save_to_disk(str(folder / "saved"))
    return f"hf:{folder / 'saved'}#train"


def _tar(folder: Path, name: str = "shard.tar", mode: str = "w") -> Path:
    with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
        for i, row in enumerate(records()):
            files = {f"{i:04}.{side}.png": png(i, side) for side in ("safe", "unsafe")}
            files |= {f"{i:04}.{side}.txt": row[side].encode() for side in ("safe", "unsafe")}
            files[f"{i:04}.json"] = json.dumps({"category": row["category"]}).encode()
            for member, data in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return folder / name


def _compressed(folder: Path) -> Path:
    return _tar(folder, "shard.tar.gz", "w:gz")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("make", [_csv, _json, _parquet, _dataset, _tar, _compressed], ids=lambda make: make.__name__)
def test_every_kind_of_source_gives_the_same_quadruplets(folder, tmp_path, make):
    work = tmp_path / "copy"
    shutil.copytree(folder, work)
    (expected, none, _), (found, bad, spool) = read(folder / "quadruplets.jsonl"), read(make(work))
    assert not none
    assert not bad
    assert [(r.safe, r.unsafe, r.category) for r in found] == [(r.safe, r.unsafe, r.category) for r in expected]
    for number in (0, 7, N - 1):
        assert mean_colours(found[number]) == [list(colour(number, side)) for side in ("safe", "unsafe")]
        assert mean_colours(found[number]) == mean_colours(expected[number])
    del spool


def test_sources_add_up_and_braces_stand_for_several(folder, tmp_path):
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    for part in range(2):
        write(tmp_path, records()[part * 12 : part * 12 + 12], f"part-{part}.jsonl")
    rows, _, _ = read(tmp_path / "part-{0..1}.jsonl", folder / "quadruplets.jsonl")
    assert [row.safe for row in rows] == [row["safe"] for row in records()] * 2


def test_visu_s_own_layout_is_read_as_pairs_of_captions(tmp_path):
    rows = [
        {"incremental_id": 3, "safe": "a cat", "nsfw": "a dead cat", "coco_id": 9, "tag": "violence", "prompt_id": 1},
        {"incremental_id": 4, "safe": "a cup", "nsfw": "a cup of gin", "coco_id": 8, "tag": "drugs", "prompt_id": 0},
    ]
    (tmp_path / "ViSU-Text_train.json").write_text(json.dumps(rows))
    found, bad, _ = read(tmp_path / "ViSU-Text_train.json")
    assert not bad
    assert [(r.safe, r.unsafe, r.category, r.safe_image, r.unsafe_image) for r in found] == [
        ("a cat", "a dead cat", "violence", None, None),
        ("a cup", "a cup of gin", "drugs", None, None),
    ]


def test_what_the_scenes_command_writes_can_be_trained_on(tmp_path):
    from click.testing import CliRunner

    from hysac_export.data.scenes.cli import scenes

    assert CliRunner().invoke(scenes, ["write", "-n", "3", "--out", str(tmp_path)]).exit_code == 0
    rows, bad, _ = read(tmp_path / "quadruplets.jsonl")
    assert len(rows) == 3
    assert not bad
    assert all(len(mean_colours(row)) == 2 for row in rows)


def test_pictures_within_a_table_go_to_a_temporary_file_that_goes_with_them(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    rows, _, spool = read(_compressed(tmp_path / "copy"))
    picture = rows[0].safe_image
    assert isinstance(picture, Slice)
    assert Path(picture.path).is_file()
    del spool
    assert not Path(picture.path).exists()


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ('{"safe": "a", "unsafe": " "}', "empty caption", "'unsafe' is empty"),
        ('{"safe": "a"}', "empty caption", "both twins"),
        ('{"safe": "a", "unsafe": 3}', "damaged row", "'unsafe' is int"),
        ('{"safe": "a", "unsafe": "b", "safe_image": 3}', "damaged row", "'safe_image' is int"),
        ('{"safe": "a", "unsafe": "b", "safe_image": "https://x/y.png"}', "damaged row", "is a URL"),
        ('["a", "b"]', "damaged row", "expected an object"),
        ("{", "damaged row", "not JSON"),
    ],
)
def test_a_row_that_is_no_quadruplet_says_why_and_where(tmp_path, line, kind, says):
    (tmp_path / "a.jsonl").write_text('{"safe": "x", "unsafe": "y"}\n' + line + "\n")
    rows, (bad,), _ = read(tmp_path / "a.jsonl")
    assert len(rows) == 1
    assert bad.kind == kind
    assert bad.origin.endswith("a.jsonl:2")
    assert says in bad.what


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "safe,nothing\nx,y\n", "have the captions 'safe' and 'unsafe'"),
        ("a.json", "{}", "expected a list of objects"),
        ("a.json", "[", "cannot be read as JSON"),
        ("a.txt", "x", "no source of quadruplets"),
        ("lost.jsonl", None, "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_read_is_an_error(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=says):
        read(tmp_path / name)


def test_held_out_rows_are_a_share_by_caption_and_are_not_trained_on(folder):
    sets = QuadrupletSets.open(DataConfig(train=(str(folder / "quadruplets.jsonl"),), holdout=0.25))
    assert {r.safe for r in sets.train} | {r.safe for r in sets.validation} == {row["safe"] for row in records()}
    assert not {r.safe for r in sets.train} & {r.safe for r in sets.validation}
    many = [QuadrupletRow("", f"caption {i}", "") for i in range(4000)]
    assert np.mean([held_out(row, 0.25) for row in many]) == pytest.approx(0.25, abs=0.03)
    assert not any(held_out(row, 0.0) for row in many)
    named = QuadrupletSets.open(
        DataConfig(train=(str(folder / "quadruplets.jsonl"),), validation=(str(folder / "quadruplets.jsonl"),))
    )
    assert len(named.train) == len(named.validation) == N


def test_validation_takes_quadruplets_with_both_pictures_at_the_model_s_size(folder, tmp_path):
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    rows = records()
    del rows[0]["safe_image"]
    feed = open_feed(config(write(tmp_path, rows), data={"validation": str(tmp_path / "quadruplets.jsonl")}))
    drawn = feed.validation(100)
    assert drawn.safe_image.shape == (N - 1, 32, 32, 3)
    assert "a calm scene 0" not in drawn.safe_text
    for text, image, category in zip(drawn.unsafe_text, drawn.unsafe_image, drawn.categories, strict=True):
        number = int(text.split()[-1])
        assert image[0, 0].tolist() == list(colour(number, "unsafe"))
        assert category == CATEGORIES[number % 2]
    assert feed.validation(5).safe_text == drawn.safe_text[:5]
    assert feed.validation(5, seed=1).safe_text != drawn.safe_text[:5]


def test_a_batch_is_a_function_of_its_step_and_holds_the_rows_pictures(folder):
    feed = FileFeed(config(folder / "quadruplets.jsonl", workers=1))
    tokenizer = _tokenizer_of(feed)
    batches = FileBatches(feed.config, tokenizer, feed.sets.train)
    direct = [batches[step] for step in range(4)]
    drawn = list(feed.batches(tokenizer, 2))  # in another process
    for a, b in zip(direct[2:], drawn, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.tokens, b.tokens)
        assert a.shown is None
        assert b.shown is None
    for place, row in enumerate(batches.rows(1)):
        number = int(feed.sets.train[row].safe.split()[-1])
        assert direct[1].pixels[place, 3, 3].tolist() == list(colour(number, "safe"))
        assert direct[1].pixels[place + 8, 3, 3].tolist() == list(colour(number, "unsafe"))
    again = pickle.loads(pickle.dumps(batches))  # as a spawned worker gets it
    assert torch.equal(again[0].pixels, direct[0].pixels)


def _tokenizer_of(feed: FileFeed) -> Any:
    from hysac_export.model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(feed.captions(), 300)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_id=tokenizer.token_to_id("<pad>"), pad_token="<pad>")
    return tokenizer


@pytest.fixture(scope="module")
def lacking(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same set; every third row lacks the safe picture, every fourth the unsafe one, rows 0 and 12 both."""
    made = tmp_path_factory.mktemp("lacking")
    shutil.copytree(folder / "pictures", made / "pictures")
    rows = records()
    for i, row in enumerate(rows):
        if i % 3 == 0:
            del row["safe_image"]
        if i % 4 == 0:
            row["unsafe_image"] = None
    return write(made, rows)


def _metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_a_run_on_files_trains_and_resumes_to_the_same_numbers(lacking, tmp_path):
    settings = config(lacking, data={"augment": 0.3})
    Trainer(settings, tmp_path / "whole").run()
    Trainer(settings, tmp_path / "parts").run(stop_after=2)
    Trainer(settings, tmp_path / "parts", resume=True).run()
    assert _metrics(tmp_path / "parts") == _metrics(tmp_path / "whole")
    report = json.loads((tmp_path / "whole" / "data.json").read_text())
    assert report["train"]["text_only"] + report["validation"]["text_only"] == 2
    assert all(np.isfinite(value) for row in _metrics(tmp_path / "whole") for value in row.values())


def test_resuming_on_other_data_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    source = tmp_path / "set" / "quadruplets.jsonl"
    Trainer(config(source), tmp_path / "run").run(stop_after=1)
    write(source.parent, [row | {"unsafe": row["unsafe"] + "!"} for row in records()])
    with pytest.raises(TrainingError, match="not what"):
        Trainer(config(source), tmp_path / "run", resume=True)


def test_resuming_where_the_digest_of_the_data_is_damaged_says_so(folder, tmp_path):
    settings = config(folder / "quadruplets.jsonl")
    Trainer(settings, tmp_path / "run").run(stop_after=1)
    (tmp_path / "run" / "data.json").write_text('{"digest": "ab')
    with pytest.raises(TrainingError, match=r"data\.json does not hold the digest"):
        Trainer(settings, tmp_path / "run", resume=True)


def _engine(**changes: Any) -> Engine:
    torch.manual_seed(0)
    settings = config("x", **changes)
    return Engine(settings, HySAC(settings.model).train())


def _batch(shown: torch.Tensor | None, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(3, 250, (16, 16), generator=generator)
    tokens[:, -1] = 299
    return Batch(pixels, tokens, shown)


MISSING = torch.tensor([True] * 8 + [False, False] + [True] * 6)


def test_a_step_does_not_depend_on_what_stands_in_for_missing_pictures():
    weights = []
    for stand_in in (0, 255):
        engine, batch = _engine(), _batch(MISSING)
        batch.pixels[~MISSING] = stand_in
        metrics = engine.step(batch, 0)
        weights.append(torch.cat([p.detach().flatten() for p in engine.model.parameters()]))
    assert torch.equal(*weights)
    assert np.isfinite(metrics["loss"])


def test_a_mask_that_hides_nothing_changes_nothing():
    plain, masked = _engine(), _engine()
    first, second = plain.step(_batch(None), 0), masked.step(_batch(torch.ones(16, dtype=torch.bool)), 0)
    assert first.keys() == second.keys()
    assert all(second[name] == pytest.approx(value, rel=1e-5) for name, value in first.items())


def test_missing_pictures_do_not_depend_on_the_parts_that_a_batch_is_encoded_in():
    whole, parts = _engine(), _engine(accumulate=4)
    first, second = whole.step(_batch(MISSING), 0), parts.step(_batch(MISSING), 0)
    assert all(second[name] == pytest.approx(value, rel=1e-4) for name, value in first.items())
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_captions_alone_leave_the_image_tower_as_it_is():
    engine = _engine(optim={"weight_decay": 0.0})
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    metrics = engine.step(_batch(torch.zeros(16, dtype=torch.bool)), 0)
    after = engine.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("clip.visual") for name in changed)
    assert any(name.startswith("clip.transformer") for name in changed)
    assert "radius/safe_image" not in metrics
    assert metrics["radius"] > 0


def test_the_stem_learns_words_from_the_pictures_that_there_are(lacking, tmp_path):
    stem = {"size": 32, "patch": 16, "width": 32, "layers": 1, "head_width": 16, "stem": "conv"}
    # Six times over, for a word that tells something is in five captions at least.
    rows = [json.loads(line) for line in lacking.read_text().splitlines()] * 6
    source = write(lacking.parent, rows, "words.jsonl")
    changes = {"loss": {"words": 1.0}, "model": {"image": stem}, "data": {"holdout": 0.0}}
    settings = config(source, stem_steps=2, steps=2, **changes)
    Trainer(settings, tmp_path / "run").run()
    assert _metrics(tmp_path / "run")[0].keys() == {"step", "loss", "words"}
    assert all(np.isfinite(row["words"]) for row in _metrics(tmp_path / "run"))


def test_the_check_counts_what_there_is(lacking):
    report = check_data(config(lacking, data={"holdout": 0.0}))
    assert report is not None
    train = report.train
    assert (train.rows, train.both_images, train.safe_image_only, train.unsafe_image_only, train.text_only) == (
        24, 12, 4, 6, 2,
    )  # fmt: skip
    assert train.categories == {"noise": 12, "dark": 12}
    assert report.errors == ()
    assert any("hysac calibrate" in warning for warning in report.warnings)
    assert (train.repeated, train.long_captions) == (0, 0)


def test_the_check_tells_of_repeated_rows_long_captions_and_captions_on_both_sides(folder):
    long = records()[0] | {"safe": "word " * 40}
    source = write(folder, [*records(), records()[3], long], "warned.jsonl")
    report = check_data(config(source, data={"validation": str(folder / "quadruplets.jsonl")}))
    assert report is not None
    assert report.train.repeated == 1
    assert report.train.long_captions == 1
    assert report.train.longest_caption > 40
    said = " ".join(report.warnings)
    assert "1 rows of train repeat" in said
    assert "longer than the model's context of 16" in said
    assert "24 safe captions are in both" in said
    assert not report.errors


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A set with a missing picture, a damaged one, and an empty caption."""
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures" / "1-safe.png").unlink()
    cut = tmp_path / "pictures" / "2-unsafe.png"
    cut.write_bytes(cut.read_bytes()[:60])
    return write(tmp_path, [*records(), {"safe": "", "unsafe": "x"}])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_with_faults_is_refused_before_anything_is_written(broken, tmp_path, workers):
    settings = config(broken, workers=workers)
    report = check_data(settings)
    assert report is not None
    assert {kind: trouble.count for kind, trouble in report.troubles.items()} == {
        "empty caption": 1,
        "unreadable picture": 2,
    }
    assert "quadruplets.jsonl:2" in report.troubles["unreadable picture"].examples[0]
    with pytest.raises(TrainingError, match=r"1 × empty caption.*2 × unreadable picture.*skip_bad"):
        Trainer(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_faults_can_be_done_without(broken, tmp_path):
    settings = config(broken, data={"skip_bad": True, "holdout": 0.0})
    trainer = Trainer(settings, tmp_path / "run")
    batches = FileBatches(settings, trainer.tokenizer, FileFeed(settings).sets.train)
    shown = [batches[step].shown for step in range(3)]
    assert sum(int((~mask).sum()) for mask in shown if mask is not None) == 2
    assert trainer.run().config.data.skip_bad


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_lost_while_training_stops_the_run_with_the_mend(workers, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    settings = config(tmp_path / "set" / "quadruplets.jsonl", data={"holdout": 0.0}, workers=workers)
    trainer = Trainer(settings, tmp_path / "run")
    shutil.rmtree(tmp_path / "set" / "pictures")
    with pytest.raises(TrainingError, match=r"^the picture of .* cannot be read any more.*skip_bad$") as raised:
        trainer.run()
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        ({}, False),
        ({"radius": 0.0}, True),
        ({"radius": 0.0, "cones": ("T<I", "T*<I*", "I<T*", "T<T*")}, False),
    ],
)
def test_captions_alone_need_a_term_that_learns_from_them(tmp_path, loss, wrong):
    source = write(tmp_path, [{"safe": f"calm {i}", "nsfw": f"loud {i}", "tag": "noise"} for i in range(20)])
    settings = config(source, loss=loss, data={"holdout": 0.0})
    report = check_data(settings)
    assert report is not None
    assert any("no term of the loss" in error for error in report.errors) is wrong
    if not wrong:
        Trainer(settings, tmp_path / "run").run(stop_after=1)


def test_a_set_that_is_too_small_or_cannot_be_validated_on_is_refused(folder):
    report = check_data(config(folder / "quadruplets.jsonl", batch_size=32, data={"holdout": 0.0}, validation={}))
    assert report is not None
    assert "24 rows to train on are less than one batch of 32" in report.errors[0]
    assert "0 rows for validation have both pictures" in report.errors[1]


def test_a_set_without_rows_is_refused_with_the_first_reason(tmp_path):
    source = write(tmp_path, [{"safe": "x", "unsafe": ""}])
    with pytest.raises(TrainingError, match=r"no quadruplets to train on.*'unsafe' is empty"):
        check_data(config(source))


def test_scenes_need_no_check_and_validation_goes_with_training():
    assert check_data(TrainConfig(data=DataConfig(quadruplets=20), model=config("x").model)) is None
    with pytest.raises(ValueError, match=r"data\.validation goes with data\.train"):
        DataConfig(validation=("a.jsonl",))
    assert DataConfig.model_validate({"train": "a.jsonl"}).train == ("a.jsonl",)
    assert LossConfig.model_validate({"cones": ["T<T*"]}).cones == ("T<T*",)


def test_calibration_of_a_run_takes_the_files_that_it_was_trained_beside(folder, tmp_path):
    from hysac_export.evaluation.subjects import load_subject, validation_split

    Trainer(config(folder / "quadruplets.jsonl"), tmp_path / "run").run()
    subject = load_subject(tmp_path / "run")
    drawn = validation_split(subject, 100)
    assert subject.config is not None
    held = {row.safe for row in QuadrupletSets.open(subject.config.data).validation}
    assert set(drawn.safe_text) == held
    assert drawn.safe_image.shape[1:] == (32, 32, 3)


def test_evaluation_on_files_takes_whole_quadruplets_and_refuses_bad_rows(lacking, broken):
    drawn = draw_files((str(lacking),), 100, 0, 48)
    assert len(drawn.safe_text) == 12
    assert drawn.unsafe_image.shape == (12, 48, 48, 3)
    with pytest.raises(TrainingError, match="is no quadruplet: 'safe' is empty"):
        draw_files((str(broken),), 100)
