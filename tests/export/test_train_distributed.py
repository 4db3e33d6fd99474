"""Several processes learn what one learns from the whole batch. Two of them here, on the CPU, talking through gloo."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from hysac_export.config import ModelConfig, TrainConfig
from hysac_export.model.hysac import HySAC
from hysac_export.training.distributed import Processes, join_halves, split_halves
from hysac_export.training.engine import Engine
from hysac_export.training.train import Trainer
from hysac_retrieval.errors import TrainingError

pytestmark = pytest.mark.slow

MODEL = {
    "dim": 12,
    "image": {"size": 32, "patch": 16, "width": 16, "layers": 1, "head_width": 8},
    "text": {"context_length": 12, "vocab_size": 300, "width": 16, "layers": 1, "heads": 2},
}
OURS = {"joint": 1.0, "radius": 2.0, "redirection": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "every addition": {"loss": OURS},
    "in parts": {"loss": OURS, "accumulate": 2},
    "clipped": {"optim": {"lr": 1e-2, "clip_norm": 1e-3, "warmup": 0.0}},
    "euclidean": {"model": {**MODEL, "geometry": "euclidean"}},
}
BATCH = 8


def config_of(case: str) -> TrainConfig:
    plain = {"steps": 2, "batch_size": BATCH, "model": MODEL, "optim": {"lr": 1e-2, "clip_norm": None, "warmup": 0.0}}
    return TrainConfig.model_validate(plain | CASES[case])


def learn(case: str, processes: Processes) -> dict[str, Any]:
    """Two steps in float64 on this process's share: gradients of the first, weights and metrics after both."""
    config = config_of(case)
    torch.manual_seed(0)
    model = HySAC(config.model).double()
    processes.synchronise(model)
    engine = Engine(config, model, processes=processes)
    generator = torch.Generator().manual_seed(1)
    found: dict[str, Any] = {}
    for step in range(2):
        pixels = torch.randn(2 * BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)
        tokens = torch.randint(1, 300, (2 * BATCH, 12), generator=generator)
        found["metrics"] = engine.learn(processes.share(pixels), processes.share(tokens), step)
        if step == 0:
            found["gradients"] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    found["weights"] = {name: value.clone() for name, value in model.state_dict().items()}
    return found


def run_config() -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "steps": 6,
            "batch_size": BATCH,
            "workers": 0,
            "log_every": 1,
            "model": {**MODEL, "text": {**MODEL["text"], "vocab_size": 400}},  # type: ignore[dict-item]
            "data": {"quadruplets": 64},
            "optim": {"lr": 1e-2},
            "validation": {"every": 2, "quadruplets": 32, "patience": 1},
        }
    )


def take_part(rank: int, port: int, folder: str) -> None:
    """What each process does; results of both go to `folder`."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    torch.set_num_threads(1)
    processes = Processes("cpu")
    found: dict[str, Any] = {case: learn(case, processes) for case in CASES}
    try:
        stem = {**MODEL, "image": {**MODEL["image"], "stem": "conv"}}  # type: ignore[dict-item]
        processes.synchronise(HySAC(ModelConfig.model_validate(stem)))
    except TrainingError as error:
        found["stem"] = str(error)
    try:
        processes.share(torch.zeros(6, 1))
    except TrainingError as error:
        found["uneven"] = str(error)
    found["agreed"] = processes.agree(float(rank) + 0.5)
    trainer = Trainer(run_config(), Path(folder) / "run", device="cpu")
    trainer.run()
    found["stopped"] = trainer.step
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder, and what each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(take_part, args=(port, str(folder)), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_gradients_of_one_with_the_whole_batch(
    shared: tuple[Path, list[dict[str, Any]]], case: str
) -> None:
    alone = learn(case, Processes("cpu"))
    for found in shared[1]:
        assert found[case]["gradients"].keys() == alone["gradients"].keys()
        for kind in ("gradients", "weights"):
            for name, expected in alone[kind].items():
                torch.testing.assert_close(found[case][kind][name], expected, rtol=1e-7, atol=1e-9, msg=name)
        assert found[case]["metrics"] == pytest.approx(alone["metrics"], rel=1e-9)


def test_negatives_come_from_the_other_process() -> None:
    """The gradients of a share by itself are others, so that the comparison above means something."""
    config = config_of("published")
    torch.manual_seed(0)
    model = HySAC(config.model).double()
    engine = Engine(config, model, processes=Processes("cpu"))
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2 * BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)
    tokens = torch.randint(1, 300, (2 * BATCH, 12), generator=generator)
    shares = []
    for x, y in zip(split_halves(pixels, 2), split_halves(tokens, 2), strict=True):
        engine.optimizer.zero_grad()
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), start_of(config), strict=True):
                parameter.copy_(value)
        engine.learn(x, y, 0)
        shares.append(model.clip.visual.conv1.weight.grad.clone())
    whole = learn("published", Processes("cpu"))["gradients"]["clip.visual.conv1.weight"]
    assert (sum(shares) / 2 - whole).norm() > 0.05 * whole.norm()


def start_of(config: TrainConfig) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [parameter.detach() for parameter in HySAC(config.model).double().parameters()]


def test_a_run_of_two_processes_is_written_once_and_goes_as_that_of_one(
    shared: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, found = shared
    alone = Trainer(run_config(), tmp_path / "alone", device="cpu")
    alone.run()
    assert {process["stopped"] for process in found} == {alone.step}
    rows, expected = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (folder / "run", tmp_path / "alone")
    )
    for row, one in zip(rows, expected, strict=True):
        assert {**row, "seconds": 0} == pytest.approx({**one, "seconds": 0}, rel=1e-3, abs=1e-4)


def test_what_cannot_be_shared_is_refused(shared: tuple[Path, list[dict[str, Any]]]) -> None:
    for found in shared[1]:
        assert "convolutional stem in one process" in found["stem"]
        assert "3 quadruplets does not divide among 2 processes" in found["uneven"]


def test_the_first_process_decides(shared: tuple[Path, list[dict[str, Any]]]) -> None:
    assert [found["agreed"] for found in shared[1]] == [0.5, 0.5]


def test_halves_are_cut_apart_and_put_together_again() -> None:
    batch = torch.arange(12)  # safe 0-5, unsafe 6-11
    parts = split_halves(batch, 3)
    assert [part.tolist() for part in parts] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert torch.equal(join_halves(parts), batch)


@pytest.mark.parametrize(("device", "message"), [("cuda", "no GPU"), ("tpu9", "no device")])
def test_devices_that_are_not_there_are_refused(device: str, message: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TrainingError, match=message):
        Processes(device)


def test_a_share_that_does_not_divide_into_its_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Two(Processes):
        def __init__(self, device: str | None) -> None:
            super().__init__(device)
            self.count = 2

    monkeypatch.setattr("hysac_export.training.train.Processes", Two)
    settings = run_config().model_copy(update={"batch_size": 8, "accumulate": 8})
    with pytest.raises(TrainingError, match="Set batch_size to a multiple of 16"):
        Trainer(settings, tmp_path / "run", device="cpu")
