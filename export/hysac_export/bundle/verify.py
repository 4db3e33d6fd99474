"""Verification of a bundle: torch against ONNX Runtime, through the runtime's own encoder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from hysac_retrieval import lorentz
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import BundleFormatError

BATCHES = (1, 7, 32)
POINT_TOLERANCE = 1e-4
"""Largest absolute difference of a component."""
RADIUS_TOLERANCE = 1e-4
"""Largest relative difference of a radius."""


def verify_bundle(
    bundle: Bundle, image: nn.Module, text: nn.Module, *, batches: Sequence[int] = BATCHES, seed: int = 0
) -> dict[str, Any]:
    """Compare a bundle with the modules it was exported from, on random pixels and tokens, for the manifest.

    The modules, from (B, S, S, 3) uint8 pixels and (B, L) int64 tokens to (B, d), are in evaluation mode on the CPU
    (`BundleFormatError`: a difference is beyond tolerance, or the graphs do not fit the manifest).
    """
    encoder = Encoder(bundle, device="cpu")
    rng = np.random.default_rng(seed)
    result: dict[str, Any] = {
        "batches": list(batches),
        "tolerance": {"point_absolute": POINT_TOLERANCE, "radius_relative": RADIUS_TOLERANCE},
        "versions": {package: version(package) for package in ("torch", "onnx", "onnxruntime")},
    }
    worst = {"image": [0.0, 0.0], "text": [0.0, 0.0]}
    for batch in batches:
        pixels, tokens = _pixels(encoder, batch, rng), _tokens(encoder, batch, rng)
        with torch.inference_mode():
            pairs = {
                "image": (image(torch.from_numpy(pixels)).numpy(), encoder.encode_image(pixels, batch_size=batch)),
                "text": (text(torch.from_numpy(tokens)).numpy(), encoder.encode_tokens(tokens, batch_size=batch)),
            }
        for modality, (expected, found) in pairs.items():
            errors = _differences(expected, found, encoder.curvature)
            worst[modality] = np.maximum(worst[modality], errors).tolist()
    for modality, (point, radius) in worst.items():
        if not (point <= POINT_TOLERANCE and radius <= RADIUS_TOLERANCE):
            points = f"points by {point:.3g} (at most {POINT_TOLERANCE:.0e})"
            radii = f"radii by {radius:.3g} of their size (at most {RADIUS_TOLERANCE:.0e})"
            hint = "Check that the model is in float32 and evaluation mode, and the versions of torch and onnx"
            message = f"the exported {modality} graph differs from the model: {points}, {radii}"
            raise BundleFormatError(message, hint=hint)
        result[modality] = {"point_absolute": point, "radius_relative": radius}
    return result


def _differences(expected: NDArray[np.float32], found: NDArray[np.float32], curvature: float) -> tuple[float, float]:
    """Largest absolute difference of a component and largest relative difference of a radius."""
    if not np.isfinite(expected).all():
        raise BundleFormatError("the model itself gives points that are not finite", hint="Train it again")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    radii = lorentz.dist0(a, curvature)
    relative = np.abs(lorentz.dist0(b, curvature) - radii) / np.maximum(radii, 1e-6)
    return float(np.abs(a - b).max()), float(relative.max())


def _pixels(encoder: Encoder, n: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blocks of flat colour with noise: pictures have both, noise alone looks all the same to a model."""
    size = encoder.image_spec.size
    coarse = rng.integers(0, 256, (n, 4, 4, 3)).repeat(-(-size // 4), axis=1).repeat(-(-size // 4), axis=2)
    noisy = coarse[:, :size, :size] + rng.integers(-40, 41, (n, size, size, 3))
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def _tokens(encoder: Encoder, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of every length, from the empty text to a cut one, as the runtime's tokenizer lays them out."""
    spec = encoder.text_spec
    size = Tokenizer.from_file(str(encoder.bundle.file(spec.tokenizer))).get_vocab_size()
    rows = rng.integers(0, size, (n, spec.context_length))
    rows[rows == spec.end_id] = spec.pad_id  # an ordinary token as any, before the end
    rows[:, 0] = encoder.tokenizer(["a"])[0, 0]
    for row, end in zip(rows, rng.integers(1, spec.context_length, n), strict=True):
        row[end] = spec.end_id
        row[end + 1 :] = spec.pad_id
    return rows
