"""A trained run: the encoders in torch, read back from a run folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from hysac_export.config import TrainConfig
from hysac_export.data.batches import normalise, open_tokenizer, tokenize
from hysac_export.model.clip_tokenizer import describe_tokenizer
from hysac_export.model.hysac import HySAC
from hysac_export.model.text_tower import text_spec
from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.errors import TrainingError

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
METRICS = "metrics.jsonl"
DATA = "data.json"
CHECKPOINT = "checkpoint.pt"
WEIGHTS = "model.safetensors"

DAMAGED = "Put back a copy of the file, or train again in another folder"
"""Hint for a file of a run folder that cannot be read."""


@dataclass(frozen=True)
class TrainedRun:
    """Encoders of a finished (or interrupted) run, in evaluation mode; the tokenizer cuts and pads to the context."""

    model: HySAC
    tokenizer: Tokenizer
    config: TrainConfig

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a finished run folder (`TrainingError`: it holds no finished run, or a file of it is damaged)."""
        folder = Path(folder)
        missing = [name for name in (CONFIG, TOKENIZER, WEIGHTS) if not (folder / name).is_file()]
        if missing:
            found = f"{folder} holds no finished run: {', '.join(missing)} missing"
            raise TrainingError(found, hint="`hysac train` makes one")
        config = read_config(folder)
        model = HySAC(config.model)
        weights = read_weights(folder / WEIGHTS)
        try:
            model.load_state_dict(weights)  # into float32, also from halves
        except RuntimeError as error:
            found = f"the weights in {folder} do not fit its {CONFIG}: {error}"
            raise TrainingError(found, hint="Train again") from error
        return cls(model.eval(), open_tokenizer(folder / TOKENIZER, config.model.text.context_length), config)

    def save(self, folder: str | Path, *, half: bool = False) -> int:
        """Write the encoders alone: config, tokenizer and weights, in float16 if `half`; return the weights' bytes."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: value.half() if half and value.is_floating_point() else value
            for name, value in self.model.state_dict().items()
        }
        self.tokenizer.save(str(folder / TOKENIZER))
        (folder / CONFIG).write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        write_weights(weights, folder / WEIGHTS)  # last: with weights, a run counts as finished
        return (folder / WEIGHTS).stat().st_size

    @property
    def geometry(self) -> Literal["hyperbolic", "euclidean"]:
        """Geometry of the points."""
        return self.config.model.geometry

    @property
    def curvature(self) -> float:
        """Curvature c of the space (−c); NaN for the Euclidean baseline."""
        return float(self.model.curvature.detach()) if self.geometry == "hyperbolic" else math.nan

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> NDArray[np.float32]:
        """Points of texts, (n, d) float32."""
        tower = self.model.sentences
        encode = self.model.encode_text if tower is None else lambda tokens: self.model.encode_text(tower.trim(tokens))
        return self._encode(encode, torch.from_numpy(tokenize(self.tokenizer, texts)), batch_size)

    @torch.inference_mode()
    def encode_image(self, pixels: NDArray[np.uint8], batch_size: int = 128) -> NDArray[np.float32]:
        """Points of images, (n, S, S, 3) uint8 to (n, d) float32."""
        mean, std = self.config.model.image.mean, self.config.model.image.std
        inputs = torch.from_numpy(np.ascontiguousarray(pixels))
        return self._encode(lambda x: self.model.encode_image(normalise(x, mean, std)), inputs, batch_size)

    def _encode(
        self, encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, size: int
    ) -> NDArray[np.float32]:
        device = self.model.log_curvature.device
        return torch.cat([encode(part.to(device)) for part in torch.split(inputs, size)]).cpu().numpy()

    @property
    def text_spec(self) -> TextSpec:
        """How texts enter the model, for a bundle's manifest."""
        text = self.config.model.text
        if text.pretrained:
            return text_spec(text)
        return describe_tokenizer(self.tokenizer, text.vocab_size, text.context_length)


def read_config(folder: Path) -> TrainConfig:
    """The config in a run folder (`TrainingError`: it is damaged)."""
    path = folder / CONFIG
    try:
        return TrainConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError(f"{path} is not a valid run config: {error}", hint=DAMAGED) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Weights by name (`TrainingError`: the file is damaged)."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} cannot be read as weights: {error}", hint=DAMAGED) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of metrics; what was not written to the end of its line is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and "step" in row]


def write_weights(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write weights beside their place and put them there whole."""
    temporary = path.with_name(path.name + ".new")
    save_file({name: value.contiguous() for name, value in weights.items()}, temporary)
    os.replace(temporary, path)
