"""HySAC on open_clip: two CLIP towers whose features are mapped onto the hyperboloid.

x = exp_map0(exp(α) · f, c) with a learned curvature c and a learned scale α per modality, all kept in log space
(MERU, arXiv 2304.09172, section 3; HySAC, arXiv 2503.12127). In the ``euclidean`` geometry the same towers give unit
vectors: the CLIP baseline.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hysac_export.config import ModelConfig
from hysac_export.model.text_tower import SentenceTower
from hysac_export.model.towers import build_towers
from hysac_retrieval import lorentz

CURVATURE_RANGE = (0.1, 10.0)
LOGIT_SCALE_INIT = 1 / 0.07
LOG_LOGIT_SCALE_MAX = 4.6052
"""log 100, as the published code rounds it."""


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and a skip connection; (B, C, H, W) in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return F.relu(x + self.body(x))


STEM_STRIDE = 8
STEM_CHANNELS = 128


def conv_stem() -> nn.Sequential:
    """Pixels to a feature grid: (B, 3, S, S) to (B, 128, S/8, S/8)."""

    def down(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *down(3, 32),
        *down(32, 64),
        ResidualBlock(64),
        *down(64, STEM_CHANNELS),
        ResidualBlock(STEM_CHANNELS),
        ResidualBlock(STEM_CHANNELS),
    )


class HeadMLP(nn.Module):
    """A residual MLP on the pooled feature, (B, d) in and out. Starts as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, 4 * dim)
        self.out = nn.Linear(4 * dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP."""
        return x + cast(Tensor, self.out(F.gelu(self.hidden(self.norm(x)))))


def _single(features: Tensor) -> Tensor:
    """Features in float32 at least: sinh and the norm lose too much in half precision."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


class HySAC(nn.Module):
    """Image and text encoders into one hyperbolic (or, for the baseline, Euclidean) space.

    The learned scalars are logarithms, 0-d: of c, of the scales of image and text features (at most 0), and of the
    contrastive logits' scale. A config of open_clip's towers is resolved (`towers.resolve`); `clip` are towers of that
    architecture, by default new ones with random weights; `sentences` is a sentence encoder in the text tower's place.
    """

    def __init__(self, config: ModelConfig, clip: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        image, text = config.image, config.text
        self.clip = cast(Any, build_towers(config) if clip is None else clip)
        # With a stem, open_clip's patch embedding works on feature maps instead of pixels.
        self.stem: nn.Module = nn.Identity()
        if image.stem == "conv":
            # Channels last: convolutions on CPUs take about a tenth less time, and tensor cores want it so.
            self.stem = conv_stem().to(memory_format=torch.channels_last)
            merge = image.patch // STEM_STRIDE
            self.clip.visual.conv1 = nn.Conv2d(STEM_CHANNELS, image.width, merge, stride=merge, bias=False)
        self.sentences = SentenceTower(config) if text.pretrained else None
        self.image_head = HeadMLP(config.dim) if image.head_mlp else nn.Identity()
        self.text_head = HeadMLP(config.dim) if text.head_mlp else nn.Identity()
        self.log_curvature = nn.Parameter(
            torch.tensor(math.log(config.curvature)), requires_grad=config.learn_curvature
        )
        self.log_alpha_image = nn.Parameter(torch.tensor(math.log(config.dim**-0.5)))
        self.log_alpha_text = nn.Parameter(torch.tensor(math.log(config.dim**-0.5)))
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(LOGIT_SCALE_INIT)))

    @property
    def curvature(self) -> Tensor:
        """Curvature c > 0 of the space (−c), 0-d float32."""
        return self.log_curvature.exp()

    @property
    def logit_scale(self) -> Tensor:
        """Scale of the contrastive logits, 0-d float32."""
        return self.log_logit_scale.exp()

    def scalars(self) -> dict[str, Tensor]:
        """The four learned scalars, by name; they take no weight decay."""
        names = ("log_curvature", "log_alpha_image", "log_alpha_text", "log_logit_scale")
        return {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring the scalars back into their ranges. Called before every step, outside of the gradient."""
        self.log_curvature.clamp_(*(math.log(c) for c in CURVATURE_RANGE))
        self.log_alpha_image.clamp_(max=0.0)
        self.log_alpha_text.clamp_(max=0.0)
        # Starting value and lower bound are one: the temperature can only sharpen.
        self.log_logit_scale.clamp_(math.log(LOGIT_SCALE_INIT), LOG_LOGIT_SCALE_MAX)

    def checkpoint_gradients(self) -> None:
        """Compute the towers' activations again for the gradient instead of keeping them."""
        if self.sentences is None:
            self.clip.set_grad_checkpointing(True)
        else:
            self.clip.visual.set_grad_checkpointing(True)
            self.sentences.transformer.gradient_checkpointing_enable()

    def image_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features before the map, (B, d) float32, and the stem's grid, (B, C, g, g), of (B, 3, S, S) pixels."""
        grid = self.stem(pixels)
        return _single(self.image_head(self.clip.visual(grid))), grid

    def text_features(self, tokens: Tensor, states: Tensor | None = None) -> Tensor:
        """Features before the map onto the hyperboloid, (B, d) float32, of token ids, (B, L) int64.

        Of a sentence encoder, `states` of the tokens, (B, L, w), may be there already.
        """
        found = self.clip.encode_text(tokens) if self.sentences is None else self.sentences(tokens, states)
        return _single(self.text_head(found))

    def project(self, features: Tensor, log_alpha: Tensor) -> Tensor:
        """Map features into the space: onto the hyperboloid, or onto the unit sphere for the baseline."""
        if self.config.geometry == "euclidean":
            return F.normalize(features, dim=-1)
        with torch.autocast(features.device.type, enabled=False):
            return cast(Tensor, lorentz.exp_map0(_single(features) * log_alpha.exp(), self.curvature))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Points of images: (B, 3, S, S) normalised pixels to (B, d) float32."""
        return self.project(self.image_features(pixels)[0], self.log_alpha_image)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Points of texts: (B, L) int64 token ids to (B, d) float32."""
        return self.project(self.text_features(tokens), self.log_alpha_text)


class WordHead(nn.Module):
    """Predicts the words of a caption, (w,) token ids, from the stem's grid; dropped after training.

    Multiple-instance pooling: a word is present if some place of the grid says so (log-sum-exp over places). The stem
    is supervised directly, because through an untrained transformer the signal hardly reaches it.
    """

    index: Tensor
    """Position of each token id among the words, or w for a token that is none: (vocab,) int64."""

    def __init__(self, words: Tensor, vocab_size: int) -> None:
        super().__init__()
        self.classify = nn.Linear(STEM_CHANNELS, len(words))
        index = torch.full((vocab_size,), len(words))
        index[words] = torch.arange(len(words))
        self.register_buffer("index", index)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, C, g, g) features to (B, w) logits."""
        return torch.logsumexp(self.classify(grid.flatten(2).transpose(1, 2)).float(), dim=1)

    def targets(self, tokens: Tensor) -> Tensor:
        """Which of the words each caption holds: (B, L) token ids to (B, w) float32, 0 or 1."""
        hot = torch.zeros(tokens.shape[0], self.classify.out_features + 1, device=tokens.device)
        return hot.scatter_(1, self.index[tokens], 1.0)[:, :-1]
