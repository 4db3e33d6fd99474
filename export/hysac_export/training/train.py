"""A run: a folder, a loop of steps, checkpoints that resume to the same numbers, metrics as JSON lines.

A run folder holds ``config.json``, ``tokenizer.json``, ``metrics.jsonl``, ``checkpoint.pt`` while it runs and
``model.safetensors`` when it is done. Everything random in a step is a function of (seed, step), so a resumed run
continues exactly as the uninterrupted one. What a step does is in `hysac_export.training.engine`.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from hysac_export.config import LoRAConfig, TrainConfig
from hysac_export.data.batches import open_tokenizer
from hysac_export.data.feed import Feed, open_feed, telling_words
from hysac_export.data.quadruplets.check import DataReport
from hysac_export.data.split import DrawnSplit, Progress
from hysac_export.data.texts import TextFeed
from hysac_export.folders import file_in_the_way
from hysac_export.model.encoded import curvature_of, encode_drawn
from hysac_export.model.hysac import HySAC, WordHead
from hysac_export.model.lora import check_gradients, merged_state
from hysac_export.model.towers import resolve
from hysac_export.training.distributed import Processes
from hysac_export.training.engine import Engine, check_precision, fastest_precision
from hysac_export.training.run import (
    CHECKPOINT,
    CONFIG,
    DAMAGED,
    DATA,
    METRICS,
    TOKENIZER,
    WEIGHTS,
    TrainedRun,
    read_config,
    read_metrics,
    read_weights,
    write_weights,
)
from hysac_export.training.start import Beginning
from hysac_export.training.states import StateCache
from hysac_export.training.trackers import check_trackers, open_trackers
from hysac_export.training.validation import Best, recall_sum
from hysac_retrieval.errors import TrainingError

BEST = "best.safetensors"
"""Weights of the best validation so far, while a run is going on."""

OnStep = Callable[[int, dict[str, float]], None]
"""Called after every step with the number of finished steps and the step's metrics."""

_FREE = {"threads", "workers", "checkpoint_every", "log_every", "trackers", "gradient_checkpointing"}
"""Settings that may change when a run is resumed: none of them changes a number."""


class Trainer:
    """One run in one folder; several processes of ``accelerate launch`` train together, and the first one writes.

    The folder is created; one that holds another run is refused, unless `resume` continues from its checkpoint. The
    device is by default CUDA, if there is one. The `config` has its model resolved (`towers.resolve`), `model` has its
    adapters, `step` counts finished steps, `best` is the best validation so far.

    Raises:
        TrainingError: The folder, or the config's towers or data, cannot be used.
        MissingExtraError: A tracker is not installed.
    """

    def __init__(self, config: TrainConfig, folder: Path, *, resume: bool = False, device: str | None = None) -> None:
        check_trackers(config.trackers)
        given, resolved = config.model, resolve(config.model)
        self.folder = folder
        self.processes = Processes(device)
        _check_shares(config, self.processes.count)
        precision = _precision(config, folder, resume, self.processes.device)
        self.config = config = config.model_copy(update={"model": resolved, "precision": precision})
        if config.threads:
            torch.set_num_threads(config.threads)
        with self.processes.state.main_process_first():  # it downloads and writes for all
            if self.processes.first:
                _check(config, folder, resume)
            torch.manual_seed(config.seed)
            self._feed = open_feed(config)
            beginning = Beginning(config, given, fresh=not resume)
            if self.processes.first and not resume:
                folder.mkdir(parents=True, exist_ok=True)
                beginning.tokenizer(self._feed).save(str(folder / TOKENIZER))
            self.tokenizer = open_tokenizer(folder / TOKENIZER, resolved.text.context_length)
            if self.processes.first:
                _check_data(self._feed, self.tokenizer, folder, resume)
            self.model = beginning.model()
        self.model.to(self.processes.device)
        if config.gradient_checkpointing:
            self.model.checkpoint_gradients()
        self.step = 0
        self.best = Best()
        words, size = None, resolved.text.vocab_size
        if config.loss.words:
            words = WordHead(telling_words(self._feed.captions(), size, self.tokenizer), size)
            words.to(self.processes.device)
        texts = None if config.texts is None else TextFeed(config.texts, self.tokenizer, config.seed)
        self._cache = self._open_cache()
        self._engine = Engine(config, self.model, words, self.processes, texts, self._cache)
        if resume:
            self._load_checkpoint()
        elif self.processes.first:  # nothing can fail any more: the folder holds a run from here on
            self._save_checkpoint()  # so that there is something to resume however early the run is cut off
            (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for module in self._engine.modules():
            self.processes.synchronise(module)
        self._validation: DrawnSplit | None = None
        named = config.trackers if self.processes.first else ()
        self._trackers = open_trackers(named, config.name, folder, config.model_dump(mode="json"))

    @property
    def done(self) -> bool:
        """Whether all steps are done, or validation has not got better for as long as patience goes."""
        validation = self.config.validation
        return self.step >= self.config.total_steps or bool(validation and self.best.stalled(validation.patience))

    def run(self, progress: OnStep | None = None, *, stop_after: int | None = None) -> TrainedRun:
        """Train to the end (or for `stop_after` steps at most), then write the weights.

        Returns:
            The trained encoders, those of the best validation if there was any.
        """
        config = self.config
        if self.done and (self.folder / WEIGHTS).is_file():
            return TrainedRun.load(self.folder)
        last = config.total_steps if stop_after is None else min(config.total_steps, self.step + stop_after)
        start = self.step
        self.model.train()
        for batch in self._feed.batches(self.tokenizer, start):
            if self.step >= last or self.done:
                break
            began = time.perf_counter()
            metrics = self._engine.step(batch, self.step)
            if self.step == max(start, config.stem_steps) and self._lora is not None:
                check_gradients(self.model)
            self.step += 1
            metrics["seconds"] = time.perf_counter() - began
            validated = self._validate(metrics)
            if validated or self.step % config.log_every == 0 or self.step == config.total_steps:
                self._log(metrics)
            if validated or self.step % config.checkpoint_every == 0 or self.step == last:
                self._save_checkpoint()
            if progress and self.processes.first:
                progress(self.step, metrics)
        trained = self._trained()
        self.processes.state.wait_for_everyone()  # until all have read the best weights
        if self.done and self.processes.first:
            trained.save(self.folder)
            (self.folder / BEST).unlink(missing_ok=True)
        if self.done and self._cache is not None:
            shutil.rmtree(self._states)
        for tracker in self._trackers:
            tracker.finish()
        return trained

    def _validate(self, metrics: dict[str, float]) -> bool:
        """Validate if it is time to, and keep the weights if they are the best."""
        validation = self.config.validation
        if validation is None or (self.step % validation.every and self.step != self.config.total_steps):
            return False
        if self._validation is None:
            self._validation = self._feed.validation(validation.quadruplets)
        live = TrainedRun(self.model.eval(), self.tokenizer, self.config)
        recall = recall_sum(encode_drawn(live, self._validation), curvature_of(live))
        self.model.train()
        # All processes encode the same, but not to the same last digit; they have to end at the same step.
        metrics["recall_sum"] = self.processes.agree(recall)
        self.best = self.best.after(metrics["recall_sum"], self.step)
        if self.best.step == self.step and self.processes.first:
            write_weights(self._plain(), self.folder / BEST)
        return True

    @property
    def _lora(self) -> LoRAConfig | None:
        return self.config.model.adapters

    @property
    def _states(self) -> Path:
        return self.folder / f"states-{self.processes.rank}"

    def _open_cache(self) -> StateCache | None:
        """States of captions that will come again, of an encoder that stays as it is."""
        tower, data = self.model.sentences, self.config.data
        again = bool(data.train) or data.captions is not None
        return StateCache(self._states, tower.width) if tower is not None and tower.frozen and again else None

    def _plain(self) -> dict[str, torch.Tensor]:
        """The weights of the model, adapters merged."""
        return self.model.state_dict() if self._lora is None else merged_state(self.model, self._lora)

    def _trained(self) -> TrainedRun:
        """The encoders so far; of a run that is done, the best."""
        weights = read_weights(self.folder / BEST) if self.done and (self.folder / BEST).is_file() else None
        model = self.model
        if weights is not None or self._lora is not None:
            model = HySAC(self.config.model)
            model.load_state_dict(self._plain() if weights is None else weights)
        return TrainedRun(model.eval(), self.tokenizer, self.config)

    def _log(self, metrics: dict[str, float]) -> None:
        if self.processes.first:
            with (self.folder / METRICS).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": self.step, **metrics}) + "\n")
        for tracker in self._trackers:
            tracker.log(metrics, step=self.step)

    def _save_checkpoint(self) -> None:
        if not self.processes.first:
            return
        engine = self._engine
        state = {"step": self.step, "best": asdict(self.best)}
        state |= {name: getattr(engine, name).state_dict() for name in ("optimizer", "scaler")}
        state["modules"] = [module.state_dict() for module in engine.modules()]
        temporary = self.folder / (CHECKPOINT + ".new")
        torch.save(state, temporary)
        os.replace(temporary, self.folder / CHECKPOINT)

    def _load_checkpoint(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            raise TrainingError(f"{self.folder} holds no {CHECKPOINT} to resume from", hint=DAMAGED)
        engine = self._engine
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.processes.device, weights_only=True)
            for module, values in zip(engine.modules(), state["modules"], strict=True):
                module.load_state_dict(values)
            engine.optimizer.load_state_dict(state["optimizer"])
            engine.scaler.load_state_dict(state.get("scaler", {}))
            self.best = Best(**state.get("best", {}))
            self.step = int(state["step"])
        except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, pickle.PickleError) as error:
            raise TrainingError(f"{path} cannot be resumed from: {error}", hint=DAMAGED) from error
        if self.processes.first:
            _truncate_metrics(self.folder / METRICS, self.step)


def _check_shares(config: TrainConfig, count: int) -> None:
    """Refuse a batch that does not divide among processes and their parts."""
    parts = count * config.accumulate
    if config.batch_size % parts:
        found = f"batch_size {config.batch_size} does not divide among {count} processes of {config.accumulate} parts"
        raise TrainingError(found, hint=f"Set batch_size to a multiple of {parts}")


def _precision(config: TrainConfig, folder: Path, resume: bool, device: torch.device) -> str:
    """The precision of a config; of ``auto`` what the run began with, or else what suits the device."""
    if config.precision != "auto":
        check_precision(config.precision, device)
        return config.precision
    if resume and (folder / CONFIG).is_file():
        return read_config(folder).precision
    return fastest_precision(device)


def _check(config: TrainConfig, folder: Path, resume: bool) -> None:
    """Refuse a folder that holds another run, or none to resume."""
    path = folder / CONFIG
    if resume:
        if not path.is_file():
            raise TrainingError(f"{folder} holds no run ({CONFIG} is missing)", hint="Start without --resume")
        stored = read_config(folder)
        if stored.model_dump(exclude=_FREE) != config.model_dump(exclude=_FREE):
            raise TrainingError(f"{folder} was trained with another config", hint=f"Resume with {path}")
    elif (file := file_in_the_way(folder)) is not None:
        raise TrainingError(f"{file} is a file, so that {folder} cannot be a folder", hint="Choose another for the run")
    elif path.exists():
        raise TrainingError(f"{folder} holds a run already", hint="Resume it with --resume, or choose another folder")


def _check_data(feed: Feed, tokenizer: Tokenizer, folder: Path, resume: bool) -> None:
    """Refuse a data set that cannot be trained on, or another one than the run began with; write down its contents."""
    path = folder / DATA
    if resume:
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))["digest"] if path.is_file() else ""
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise TrainingError(f"{path} does not hold the digest of the data: {error}", hint=DAMAGED) from error
        if feed.digest != begun:
            found = f"the data is not what {folder} was trained on"
            raise TrainingError(found, hint="Put it back, or train in another folder")
    elif (report := feed.check(tokenizer)) is not None:
        report.refuse()
        path.write_text(json.dumps({"digest": feed.digest, **asdict(report)}, indent=1) + "\n", encoding="utf-8")


def check_data(config: TrainConfig, progress: Progress | None = None) -> DataReport | None:
    """Look through the data of a config as a run would before its first step; None for scenes."""
    given = config.model
    config = config.model_copy(update={"model": resolve(given)})
    feed = open_feed(config)
    return feed.check(Beginning(config, given).tokenizer(feed), progress)


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop lines that were written after the checkpoint, or not to their end."""
    if path.is_file():
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
