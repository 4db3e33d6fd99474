"""One step of training: encode a share of the batch, take the loss of the whole, update the weights.

Everything random in a step is a function of (seed, step), and of the process and the part where there are several. The
towers may run in half precision; ``exp_map0`` and the losses are float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hysac_export.config import OptimConfig, TextsConfig, TrainConfig
from hysac_export.data.batches import Batch, augment, normalise
from hysac_export.data.split import GROUPS
from hysac_export.data.texts import TextBatch, TextFeed
from hysac_export.model.hysac import HySAC, WordHead
from hysac_export.model.text_tower import SentenceTower
from hysac_export.training.distributed import Processes, join_halves, split_halves
from hysac_export.training.losses import Quadruplets, euclidean_loss, hyperbolic_loss, words_loss
from hysac_export.training.states import FrozenStates, StateCache
from hysac_export.training.texts import text_terms
from hysac_retrieval import lorentz
from hysac_retrieval.errors import TrainingError


@dataclass(frozen=True)
class _Part:
    """A part of a batch that is encoded at once, safe half first: (2b, 3, S, S) normalised pixels, (2b, L) tokens.

    `shown` tells which rows have a picture, (2b,) bool or None for all; `seed` is that of dropout.
    """

    pixels: Tensor
    tokens: Tensor
    shown: Tensor | None
    seed: int

    def pictures(self) -> Tensor:
        """Pixels of the rows that have a picture; one row at least."""
        return self.pixels if self.shown is None else self.pixels[_rows(self.shown)]

    def spread(self, values: Tensor) -> Tensor:
        """Values of the pictures on their rows, 0 on all others: (k, …) to (2b, …)."""
        if self.shown is None:
            return values
        return values.new_zeros(len(self.pixels), *values.shape[1:]).index_copy(0, _rows(self.shown), values)

    def words(self, words: WordHead) -> Tensor:
        """Words of each picture's caption, (2b, w) 0 or 1; none for a row without a picture."""
        targets = words.targets(self.tokens)
        return targets if self.shown is None else targets * self.shown[:, None]


_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fastest_precision(device: torch.device) -> Literal["bf16", "fp32"]:
    """Return what ``precision: auto`` means on a device: bf16 if it has instructions for it, else fp32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
        native = any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return "bf16" if native else "fp32"


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse float16 on a CPU, which computes in it slowly and with overflows that bf16 does not have."""
    if precision == "fp16" and device.type == "cpu":
        raise TrainingError("precision fp16 needs a GPU", hint="On a CPU train with fp32, bf16, or auto, which chooses")


class Engine:
    """A model on its device, its optimiser, and the steps of its training; frozen parameters stay as they are.

    `texts` are learned from beside the batches; `cache` keeps what a frozen text encoder makes of captions.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: HySAC,
        words: WordHead | None = None,
        processes: Processes | None = None,
        texts: TextFeed | None = None,
        cache: StateCache | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.words = words
        self.processes = processes or Processes(next(model.parameters()).device.type)
        self.texts = texts
        tower = model.sentences
        self._states = FrozenStates(tower, cache) if tower is not None and tower.frozen else None
        self._noise = 0.0
        groups = self._parameter_groups()
        self.optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, betas=config.optim.betas, fused=True)
        device = self.processes.device
        self.precision = fastest_precision(device) if config.precision == "auto" else config.precision
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def modules(self) -> list[torch.nn.Module]:
        """The modules with weights to train."""
        return [self.model, *([self.words] if self.words else [])]

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Learn from a whole batch, of which this process takes its share; `step` is the number of steps done.

        Returns every term of the loss, radii and scalars, of the whole batch (`TrainingError`: the loss is not finite).
        """
        processes, image = self.processes, self.config.model.image
        own = Batch(processes.share(batch.pixels), processes.share(batch.tokens)).to(processes.device)
        shown = None if batch.shown is None else batch.shown.to(processes.device)
        rank = [processes.rank] if processes.count > 1 else []
        generator = torch.Generator().manual_seed(self._seed(step, *rank))
        pixels = normalise(own.pixels, image.mean, image.std)
        if self._texts_alone(step):
            self._hold_pictures()
        else:
            pixels = augment(pixels, self.config.data.augment, generator)
        if self.words and step < self.config.stem_steps:
            return self._stem_step(self.words, pixels, own.tokens, step, shown)
        return self.learn(pixels, own.tokens, step, shown)

    def learn(self, pixels: Tensor, tokens: Tensor, step: int, shown: Tensor | None = None) -> dict[str, float]:
        """A step of the main phase or the last, on this process's share, safe half first.

        Of normalised pixels and (2b, L) tokens; `shown` tells which rows of the *whole* batch have a picture, (2B,)
        bool; None: all.
        """
        config, done = self.config, (step - self.config.stem_steps) / self.config.steps
        own = (done - 1) * config.steps / config.text_steps if self._texts_alone(step) else done
        self._set_lr(learning_rate(config.optim, own))
        self.model.clamp()
        self.optimizer.zero_grad(set_to_none=True)
        n = config.accumulate
        masks = [None] * n if shown is None else split_halves(self.processes.share(shown), n)
        halves = zip(split_halves(pixels, n), split_halves(tokens, n), masks, strict=True)
        parts = [_Part(*half, self._seed(step, self.processes.rank, part)) for part, half in enumerate(halves)]
        beside = None if self.texts is None else replace(self.texts.batch(step - config.stem_steps), captions=tokens)
        backward = self._backward if len(parts) == 1 else self._backward_in_parts
        with _attention(self.processes.device):  # around both directions: checkpointing encodes again in the second
            total, terms, points = backward(parts, done, shown, beside)
        self._update()
        return self._metrics(total, terms, points)

    def _texts_alone(self, step: int) -> bool:
        """Whether a step is of the last phase, in which pictures stand still."""
        return bool(self.config.text_steps) and step >= self.config.stem_steps + self.config.steps

    def _hold_pictures(self) -> None:
        """Let only texts learn from here on: neither the image tower, its batch statistics, nor the space moves."""
        self.model.eval()
        learning = [module.train() for module in (self.model.sentences, self.model.text_head) if module is not None]
        own = {p for module in learning for p in module.parameters()} | {self.model.log_alpha_text}
        for parameter in self._parameters():
            if parameter not in own:
                parameter.requires_grad_(False)
        config = self.config.texts
        self._noise = 0.0 if config is None else config.noise

    def _backward(
        self, parts: list[_Part], done: float, shown: Tensor | None, beside: TextBatch | None
    ) -> tuple[Tensor, dict[str, Tensor], Quadruplets]:
        """Gradients of the loss, the share being encoded at once."""
        (part,) = parts
        weight = self.config.loss.words if self.words and done < self.config.loss.words_end else 0.0
        texts, images, logits = self._encode(part, words=bool(weight))
        total, terms, points = self._loss(texts, images, done, shown, beside)
        if self.words and logits is not None:
            gather = self.processes.gather
            terms["words"] = words_loss(gather(logits), gather(part.words(self.words)))
            total = total + weight * terms["words"]
        self._scaled_backward(total)
        return total, terms, points

    def _backward_in_parts(
        self, parts: list[_Part], done: float, shown: Tensor | None, beside: TextBatch | None
    ) -> tuple[Tensor, dict[str, Tensor], Quadruplets]:
        """The same gradients with the activations of one part at a time in memory (GradCache, arXiv 2101.06983).

        The loss of the whole batch needs only its points. They are encoded without a graph; the loss gives their
        gradients, and each part is encoded again to carry its own back through the towers.
        """
        with torch.no_grad():
            points = [self._encode(part)[:2] for part in parts]
        leaves = [(texts.requires_grad_(), images.requires_grad_()) for texts, images in points]
        texts, images = (join_halves(halves) for halves in zip(*leaves, strict=True))
        total, terms, quadruplets = self._loss(texts, images, done, shown, beside)
        self._scaled_backward(total)
        for part, leaf in zip(parts, leaves, strict=True):
            found = [(half, of) for half, of in zip(self._encode(part)[:2], leaf, strict=True) if half.requires_grad]
            torch.autograd.backward([half for half, _ in found], [of.grad for _, of in found])
        return total, terms, quadruplets

    def _encode(self, part: _Part, words: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points of texts and of images, (2b, d) float32, and logits of words; 0 where there is no picture."""
        torch.manual_seed(part.seed)  # of dropout: a part that is encoded twice has to come out the same
        with self._autocast():
            features, grid = self.model.image_features(part.pictures())
            text = self._text_features(part.tokens)[0]
            logits = self.words(grid) if self.words and words else None
        images = self.model.project(features, self.model.log_alpha_image)
        texts = self.model.project(text, self.model.log_alpha_text)
        return texts, part.spread(images), None if logits is None else part.spread(logits)

    def _text_features(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features of texts, (n, d), and what a sentence encoder by itself makes of them, (n, w)."""
        tower = self.model.sentences
        if tower is None:
            return self.model.text_features(tokens), None
        tokens, states = self._text_states(tower, tokens)
        vectors = tower.vectors(tokens, states.detach())
        if self._noise:
            states = states + self._noise * torch.randn_like(states)
        return self.model.text_features(tokens, states), vectors

    def _text_states(self, tower: SentenceTower, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens up to the end of the longest text, (n, l), and a sentence encoder's states of them, (n, l, w)."""
        tokens = tower.trim(tokens)
        return tokens, self._states(tokens, self._autocast) if self._states else tower.states(tokens)

    @torch.no_grad()
    def _caption_vectors(self, tokens: Tensor) -> Tensor:
        """A sentence encoder's own vectors of the whole batch's captions, (2B, w)."""
        tower = cast(SentenceTower, self.model.sentences)
        with self._autocast():
            return self.processes.gather(tower.vectors(*self._text_states(tower, tokens)))

    def _loss_of_texts(self, texts: TextBatch, scene: Quadruplets) -> tuple[Tensor, dict[str, Tensor]]:
        """What texts without pictures add to the loss, of the same ones in every process; see `text_terms`."""
        model, config = self.model, self.config
        points, vectors = [], []
        for tokens in (texts.safe, texts.unsafe, texts.others):
            with self._autocast():
                features, vector = self._text_features(tokens.to(self.processes.device))
            points.append(model.project(features, model.log_alpha_text))
            vectors.append(cast(Tensor, vector))
        settings, gap = cast(TextsConfig, config.texts), config.loss.radius_gap
        captions = self._caption_vectors(cast(Tensor, texts.captions)) if settings.pictured else None
        return text_terms(
            (points[0], points[1], points[2]), (vectors[0], vectors[1], vectors[2]), scene,
            captions, model.curvature, model.logit_scale, settings, gap,
        )  # fmt: skip

    def _loss(
        self, texts: Tensor, images: Tensor, done: float, shown: Tensor | None, beside: TextBatch | None
    ) -> tuple[Tensor, dict[str, Tensor], Quadruplets]:
        """The loss of the whole batch, from this process's share of its points."""
        safe_text, unsafe_text = self.processes.gather(texts).chunk(2)
        safe_image, unsafe_image = self.processes.gather(images).chunk(2)
        points = Quadruplets(safe_text, safe_image, unsafe_text, unsafe_image)
        if shown is not None:
            safe, unsafe = shown.chunk(2)
            points = replace(points, safe_shown=safe, unsafe_shown=unsafe)
        model, loss = self.model, self.config.loss
        if model.config.geometry == "euclidean":
            return *euclidean_loss(points, model.logit_scale, loss), points
        total, terms = hyperbolic_loss(points, model.curvature, model.logit_scale, loss, done)
        if beside is not None:
            more, found = self._loss_of_texts(beside, points)
            total, terms = total + more, terms | found
        return total, terms, points

    def _stem_step(
        self, words: WordHead, pixels: Tensor, tokens: Tensor, step: int, shown: Tensor | None
    ) -> dict[str, float]:
        """Two updates of the stem alone, on half a batch each: small updates teach it fastest, and cost least."""
        self._set_lr(self.config.optim.lr * min(1.0, (step + 1) / 20))
        gather = self.processes.gather
        losses = []
        masks = (None, None) if shown is None else self.processes.share(shown).chunk(2)
        for part in (_Part(*half, 0) for half in zip(pixels.chunk(2), tokens.chunk(2), masks, strict=True)):
            self.optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                logits = words(self.model.stem(part.pictures()))
            loss = words_loss(gather(part.spread(logits)), gather(part.words(words)))
            self._scaled_backward(loss)
            self._update()
            losses.append(loss.item())
        return {"loss": self.config.loss.words * sum(losses) / 2, "words": sum(losses) / 2}

    def _scaled_backward(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            message = f"the loss is {loss.item()}, training has diverged"
            raise TrainingError(message, hint="Lower optim.lr, or train with precision fp32")
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _update(self) -> None:
        self.processes.average_gradients(self._parameters())
        if self.config.optim.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters(), self.config.optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    @torch.no_grad()
    def _metrics(self, total: Tensor, terms: dict[str, Tensor], points: Quadruplets) -> dict[str, float]:
        metrics = {"loss": total.item(), **{name: term.item() for name, term in terms.items()}}
        metrics["lr"] = float(self.optimizer.param_groups[0]["lr"])
        if self.model.config.geometry == "hyperbolic":
            metrics["curvature"] = float(self.model.curvature)
            for name in GROUPS:
                if len(there := points.there(name)):
                    metrics[f"radius/{name}"] = float(lorentz.dist0(there, self.model.curvature).mean())
        metrics["logit_scale"] = float(self.model.logit_scale)
        return metrics

    def _autocast(self) -> AbstractContextManager[Any]:
        half = _HALF.get(self.precision)
        return torch.autocast(self.processes.device.type, half or torch.bfloat16, enabled=half is not None)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for module in self.modules() for parameter in module.parameters()]

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay on matrices, the text head's on its own; none on biases, norms and the learned scalars."""
        optim, tower = self.config.optim, self.model.sentences
        own = self.config.texts.weight_decay if self.config.texts else None
        head = set() if tower is None or own is None else set(tower.head.parameters())
        parameters = [p for module in self.modules() for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2 and p not in head], "weight_decay": optim.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        if head:
            groups.append({"params": [p for p in parameters if p.ndim >= 2 and p in head], "weight_decay": own})
        return groups

    def _seed(self, *where: int) -> int:
        # Not Python's hash, which may change from one version to the next: resumed runs have to draw the same.
        return int(np.random.SeedSequence(self.config.seed, spawn_key=where).generate_state(1)[0])


def learning_rate(config: OptimConfig, progress: float) -> float:
    """Linear warm-up, then constant or a cosine to zero; `progress` is the share of the run done, in [0, 1)."""
    if progress < config.warmup:
        return config.lr * (progress / config.warmup + 1e-3)
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def _rows(shown: Tensor) -> Tensor:
    """Numbers of the rows that have a picture, (k,) int64; the first if none has, for every weight needs a gradient."""
    rows = torch.nonzero(shown).flatten()
    return rows if len(rows) else rows.new_zeros(1)


def _attention(device: torch.device) -> AbstractContextManager[Any]:
    """On CPUs the fused attention kernel's backward pass is several times slower than plain matrix products."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
