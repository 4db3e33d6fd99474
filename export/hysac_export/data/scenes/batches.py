"""Batches of scenes, drawn afresh every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hysac_export.config import DataConfig, TrainConfig
from hysac_export.data.batches import Batch, StepBatches, tokenize
from hysac_export.data.scenes import Artist, Quadruplet, Scene, caption, quadruplets, styles_for
from hysac_export.data.scenes.splits import stable_hash


class SceneBatches(StepBatches):
    """Batches of scenes."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.scenes = training_scenes(config.data)
        super().__init__(config, len(self.scenes))
        places: dict[tuple[str, str], int] = {}
        self._places = np.array([places.setdefault((q.safe.setting, q.safe.light), len(places)) for q in self.scenes])
        self._artist: Artist | None = None

    def __getitem__(self, step: int) -> Batch:
        if self._artist is None:  # built in the worker: sprites are decoded once per process
            data, size = self.config.data, self.config.model.image.size
            self._artist = Artist(data.styles or styles_for("train"), size=size, restyled=data.restyle)
        rng = np.random.default_rng((self.config.seed, step, 1))
        chosen = [self.scenes[i] for i in self.rows(step)]
        sides = [q.safe for q in chosen] + [q.unsafe for q in chosen]
        pixels = np.stack([self._artist.draw(scene, rng) for scene in sides])
        told = self._told(chosen, rng) if self.config.data.omit else sides
        if (few := self.config.data.captions) is not None:  # the same for every seed of a run
            kept = rng.integers(few, size=len(told)).tolist()
            texts = [caption(scene, self._rng(scene, number)) for scene, number in zip(told, kept, strict=True)]
        else:
            texts = [caption(scene, rng) for scene in told]
        tokens = tokenize(self.tokenizer, texts)
        return Batch(torch.from_numpy(pixels), torch.from_numpy(tokens))

    def _rng(self, scene: Scene, number: int) -> np.random.Generator:
        """Generator of one of the captions that a scene has."""
        return np.random.default_rng((stable_hash(*scene.entities, scene.setting, scene.light), number, 6))

    def _told(self, chosen: Sequence[Quadruplet], rng: np.random.Generator) -> list[Scene]:
        """The scenes as their captions tell them: some leave out one thing that both twins show.

        Never a thing that decides on safety, so that a caption stays true of its picture, and two things at least stay.
        """
        sides: tuple[list[Scene], list[Scene]] = ([], [])
        for q, (draw, *picks) in zip(chosen, rng.random((len(chosen), 3)), strict=True):
            shared = [entity for entity in q.safe.entities if entity in q.unsafe.entities]
            omit = draw < self.config.data.omit and not q.context and bool(shared)
            for told, scene, pick in zip(sides, (q.safe, q.unsafe), picks, strict=True):
                left = tuple(e for e in scene.entities if e != shared[int(pick * len(shared))]) if omit else ()
                told.append(replace(scene, entities=left) if len(left) >= 2 else scene)
        return [*sides[0], *sides[1]]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Rows of an epoch: a permutation, in groups that share setting and light where the config asks for groups."""
        rng = np.random.default_rng((self.config.seed, epoch, 0))
        order = rng.permutation(len(self.scenes))
        group = self.config.data.group
        if group == 1:
            return order
        alike = order[np.argsort(self._places[order], kind="stable")]
        whole = len(alike) // group * group
        shuffled = rng.permutation(alike[:whole].reshape(-1, group), axis=0)
        return np.concatenate([shuffled.reshape(-1), alike[whole:]])


def training_scenes(config: DataConfig) -> Sequence[Quadruplet]:
    """The training quadruplets, deterministic by the data seed."""
    return quadruplets("train", config.quadruplets, config.seed)
