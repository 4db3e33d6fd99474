"""TensorBoard and Weights & Biases, for those who want a run's metrics there too; through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from hysac_retrieval.errors import MissingExtraError

Name = Literal["tensorboard", "wandb"]


def check_trackers(names: Sequence[Name]) -> None:
    """Refuse trackers whose package is missing (`MissingExtraError`)."""
    for name in names:
        if find_spec(name) is None:
            raise MissingExtraError(name, "tracking", f"trackers: [{name}]")


def open_trackers(names: Sequence[Name], run: str, folder: Path, config: Mapping[str, Any]) -> list[GeneralTracker]:
    """Start trackers, in the first process alone (`MissingExtraError`: one is not installed).

    TensorBoard writes to ``tensorboard/`` in the run folder, Weights & Biases to ``wandb/``, with `run` as its project.
    """
    check_trackers(names)
    trackers: list[GeneralTracker] = []
    for name in names:
        tracker: Any = (
            TensorBoardTracker("tensorboard", folder) if name == "tensorboard" else WandBTracker(run, dir=str(folder))
        )
        tracker.start()
        if name == "wandb":  # TensorBoard's table of hyper-parameters takes no nested ones
            tracker.store_init_configuration(dict(config))
        trackers.append(tracker)
    return trackers
