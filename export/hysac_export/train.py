"""The training loop: a folder per run, checkpoints that resume to the same numbers, metrics as JSON lines.

A run folder holds ``config.json``, ``tokenizer.json``, ``metrics.jsonl``, ``checkpoint.pt`` while it runs and
``model.safetensors`` when it is done. Everything random in a step is a function of (seed, step), so a resumed run
continues exactly as the uninterrupted one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hysac_export.config import OptimConfig, TrainConfig
from hysac_export.data import Batch, SceneBatches, augment, normalise, open_tokenizer, tokenize, training_scenes
from hysac_export.losses import Quadruplets, euclidean_loss, hyperbolic_loss, words_loss
from hysac_export.model import HySAC, WordHead
from hysac_export.run import CHECKPOINT, CONFIG, METRICS, TOKENIZER, TrainedRun
from hysac_export.scenes import caption
from hysac_export.tokenizer import train_tokenizer
from hysac_retrieval import lorentz
from hysac_retrieval.errors import TrainingError

Progress = Callable[[int, dict[str, float]], None]
"""Called after every step with the number of finished steps and the step's metrics."""


class Trainer:
    """One run in one folder.

    Args:
        config: What to train.
        folder: The run folder; created. A folder that holds another run is refused unless `resume` is set.
        resume: Continue from the folder's checkpoint.
        device: Where to train; default: CUDA when there is one.

    Raises:
        TrainingError: The folder holds a run already, has nothing to resume, or was made with another config.
    """

    def __init__(self, config: TrainConfig, folder: Path, *, resume: bool = False, device: str | None = None) -> None:
        self.config = config
        self.folder = folder
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if config.threads:
            torch.set_num_threads(config.threads)
        _prepare(config, folder, resume)
        torch.manual_seed(config.seed)
        self.tokenizer = _tokenizer(config, folder)
        self.model = HySAC(config.model).to(self.device)
        self.words: WordHead | None = None
        if config.loss.words:
            words = telling_words(config, self.tokenizer)
            self.words = WordHead(words, config.model.text.vocab_size).to(self.device)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self._modules(), config.optim.weight_decay),
            lr=config.optim.lr,
            betas=config.optim.betas,
            fused=True,
        )
        self.step = 0
        if resume:
            self._load_checkpoint()

    def run(self, progress: Progress | None = None, *, stop_after: int | None = None) -> TrainedRun:
        """Train to the end (or for `stop_after` steps at most), then write the weights.

        Returns:
            The trained encoders; also readable later with `TrainedRun.load`.
        """
        config = self.config
        last = config.total_steps if stop_after is None else min(config.total_steps, self.step + stop_after)
        loader = SceneBatches(config, self.tokenizer).loader(self.step)
        self.model.train()
        with (self.folder / METRICS).open("a", encoding="utf-8") as log:
            for batch in loader:
                if self.step >= last:
                    break
                began = time.perf_counter()
                metrics = self._train_step(batch.to(self.device))
                self.step += 1
                metrics["seconds"] = time.perf_counter() - began
                if self.step % config.log_every == 0 or self.step == config.total_steps:
                    log.write(json.dumps({"step": self.step, **metrics}) + "\n")
                    log.flush()
                if self.step % config.checkpoint_every == 0 or self.step == last:
                    self._save_checkpoint()
                if progress:
                    progress(self.step, metrics)
        trained = TrainedRun(self.model.eval(), self.tokenizer, config)
        if self.step == config.total_steps:
            trained.save(self.folder)
        return trained

    def _train_step(self, batch: Batch) -> dict[str, float]:
        generator = torch.Generator().manual_seed(hash((self.config.seed, self.step)) & 0x7FFFFFFF)
        pixels = augment(normalise(batch.pixels), self.config.data.augment, generator)
        if self.words and self.step < self.config.stem_steps:
            return self._stem_step(self.words, pixels, batch.tokens)
        return self._main_step(pixels, batch.tokens)

    def _stem_step(self, words: WordHead, pixels: Tensor, tokens: Tensor) -> dict[str, float]:
        """Two updates of the stem alone, on half a batch each: small updates teach it fastest, and cost least."""
        self._set_lr(self.config.optim.lr * min(1.0, (self.step + 1) / 20))
        losses = []
        for part, ids in zip(pixels.chunk(2), tokens.chunk(2), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                logits = words(self.model.stem(part))
            loss = words_loss(logits, words.targets(ids))
            self._update(loss)
            losses.append(loss.item())
        return {"loss": self.config.loss.words * sum(losses) / 2, "words": sum(losses) / 2}

    def _main_step(self, pixels: Tensor, tokens: Tensor) -> dict[str, float]:
        config, done = self.config, (self.step - self.config.stem_steps) / self.config.steps
        self._set_lr(learning_rate(config.optim, done))
        self.model.clamp()
        with (
            _attention(self.device),
            torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"),
        ):
            features, grid = self.model.image_features(pixels)
            text = self.model.text_features(tokens)
            word_weight = config.loss.words if self.words and done < config.loss.words_end else 0.0
            word_logits = self.words(grid) if self.words and word_weight else None
        images = self.model.project(features, self.model.log_alpha_image)
        texts = self.model.project(text, self.model.log_alpha_text)
        safe_text, unsafe_text = texts.chunk(2)
        safe_image, unsafe_image = images.chunk(2)
        points = Quadruplets(safe_text, safe_image, unsafe_text, unsafe_image)
        if config.model.geometry == "euclidean":
            total, terms = euclidean_loss(points, self.model.logit_scale, config.loss)
        else:
            total, terms = hyperbolic_loss(points, self.model.curvature, self.model.logit_scale, config.loss, done)
        if self.words and word_logits is not None:
            terms["words"] = words_loss(word_logits, self.words.targets(tokens))
            total = total + word_weight * terms["words"]
        self._update(total)
        return self._metrics(total, terms, points)

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _update(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.step}; lower optim.lr, or train with precision fp32"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters(), self.config.optim.clip_norm)
        self.optimizer.step()

    @torch.no_grad()
    def _metrics(self, total: Tensor, terms: dict[str, Tensor], points: Quadruplets) -> dict[str, float]:
        metrics = {"loss": total.item(), **{name: term.item() for name, term in terms.items()}}
        metrics["lr"] = float(self.optimizer.param_groups[0]["lr"])
        if self.config.model.geometry == "hyperbolic":
            metrics["curvature"] = float(self.model.curvature)
            for name in ("safe_text", "safe_image", "unsafe_text", "unsafe_image"):
                metrics[f"radius/{name}"] = float(lorentz.dist0(getattr(points, name), self.model.curvature).mean())
        metrics["logit_scale"] = float(self.model.logit_scale)
        return metrics

    def _modules(self) -> list[torch.nn.Module]:
        return [self.model, *([self.words] if self.words else [])]

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        for module in self._modules():
            yield from module.parameters()

    def _save_checkpoint(self) -> None:
        state = {
            "step": self.step,
            "modules": [module.state_dict() for module in self._modules()],
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.folder / (CHECKPOINT + ".new")
        torch.save(state, temporary)
        os.replace(temporary, self.folder / CHECKPOINT)

    def _load_checkpoint(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            raise TrainingError(f"{self.folder} holds no {CHECKPOINT} to resume from; start without --resume")
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        for module, values in zip(self._modules(), state["modules"], strict=True):
            module.load_state_dict(values)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        _truncate_metrics(self.folder / METRICS, self.step)


def learning_rate(config: OptimConfig, progress: float) -> float:
    """Linear warm-up, then constant or a cosine to zero; `progress` is the share of the run done, in [0, 1)."""
    if progress < config.warmup:
        return config.lr * (progress / config.warmup + 1e-3)
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def _attention(device: torch.device) -> AbstractContextManager[Any]:
    """On CPUs the fused attention kernel's backward pass is several times slower than plain matrix products."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _prepare(config: TrainConfig, folder: Path, resume: bool) -> None:
    path = folder / CONFIG
    if resume:
        if not path.is_file():
            raise TrainingError(f"{folder} holds no run ({CONFIG} is missing); start without --resume")
        stored = TrainConfig.model_validate_json(path.read_bytes())
        free = {"threads", "workers", "checkpoint_every", "log_every"}
        if stored.model_dump(exclude=free) != config.model_dump(exclude=free):
            raise TrainingError(f"{folder} was trained with another config; resume with {path}")
        return
    if path.exists():
        raise TrainingError(f"{folder} holds a run already; resume it with --resume, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _tokenizer(config: TrainConfig, folder: Path) -> Tokenizer:
    """The run's tokenizer, learned from the training captions the first time."""
    path = folder / TOKENIZER
    if not path.is_file():
        train_tokenizer(_sample_captions(config), config.model.text.vocab_size).save(str(path))
    return open_tokenizer(path, config.model.text.context_length)


def telling_words(config: TrainConfig, tokenizer: Tokenizer, most: float = 0.05) -> Tensor:
    """Token ids that say something of the picture: in at least five captions, and in at most a share `most` of them.

    That leaves out articles and the words of the templates, which no picture can tell and which would drown the rest.
    """
    captions = _sample_captions(config)
    seen = np.zeros(config.model.text.vocab_size, dtype=np.int64)
    for row in tokenize(tokenizer, captions):
        seen[np.unique(row)] += 1
    words = np.flatnonzero((seen >= 5) & (seen <= most * len(captions)))
    if not words.size:
        raise TrainingError(
            f"of {len(captions)} captions no word is in at least five and at most {most:.0%}; "
            "train on more quadruplets, or set loss.words to 0"
        )
    return torch.from_numpy(words)


def _sample_captions(config: TrainConfig) -> list[str]:
    rng = np.random.default_rng((config.seed, 2))
    scenes = training_scenes(config.data)[:20_000]
    return [caption(scene, rng) for q in scenes for scene in (q.safe, q.unsafe)]


def _parameter_groups(modules: list[torch.nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices; none on biases, norms and the learned scalars."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop lines that were written after the checkpoint."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
