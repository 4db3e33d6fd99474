"""From a trained model to a bundle: two ONNX graphs, a tokenizer and a manifest, checked before anybody sees them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from onnx import ModelProto
from tokenizers import Tokenizer
from torch import Tensor, nn

from hysac_export.bundle.graphs import OPSET, save_graph, store_halves, strip
from hysac_export.bundle.place import building, check_target
from hysac_export.bundle.verify import verify_bundle
from hysac_export.config import CLIP_MEAN, CLIP_STD
from hysac_export.data.batches import uncut
from hysac_export.model.hysac import HySAC
from hysac_export.model.tokenizer import text_spec
from hysac_retrieval.encoder.bundle import Bundle, ImageSpec, Manifest, TextSpec, entry_of, write_manifest
from hysac_retrieval.encoder.entailment import Entailment
from hysac_retrieval.errors import BundleFormatError, SettingsError, TrainingError
from hysac_retrieval.lift import Lift
from hysac_retrieval.safety.profile import SafetyProfile

Weights = Literal["float32", "float16"]


class Towers(Protocol):
    """Encoders of pixels, (B, 3, S, S) float32 and normalised, and of token ids, (B, L) int64, each to (B, d)."""

    def encode_image(self, image: Tensor, /) -> Tensor:
        """Encode normalised pixels."""

    def encode_text(self, text: Tensor, /) -> Tensor:
        """Encode token ids."""


class ImageGraph(nn.Module):
    """Raw pixels to points; mean and standard deviation of each channel are of values in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Towers, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 to (B, d) float32 space components."""
        x = pixels.permute(0, 3, 1, 2).float() / 255.0
        return self.model.encode_image((x - self.mean) / self.std)


class TextGraph(nn.Module):
    """Token ids to points, of rows of any length if it is `dynamic`.

    CLIP's text tower pools at the largest id, which is the end token's (see `train_tokenizer`).
    """

    def __init__(self, model: Towers, *, dynamic: bool = False) -> None:
        super().__init__()
        self.model = model
        self.dynamic = dynamic

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 to (B, d) float32 space components."""
        return self.model.encode_text(tokens)


@torch.no_grad()
def round_weights(model: nn.Module) -> None:
    """Round the matrices of a model to float16's precision, in place (`TrainingError`: a weight is too large for it).

    To be done before calibration if the bundle stores half precision, so that the profile belongs to the model that is
    shipped. Kernels of convolutions stay: export folds a batch norm into them, which would undo the rounding.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            rounded = parameter.half().to(parameter.dtype)
            if not torch.isfinite(rounded).all():
                raise TrainingError(f"{name} has weights beyond ±65504", hint="Export with weights='float32'")
            parameter.copy_(rounded)


def export_bundle(
    model: HySAC,
    tokenizer: str | Path | Tokenizer,
    *,
    safety: SafetyProfile,
    out: str | Path,
    name: str,
    text: TextSpec | None = None,
    lift: Lift | None = None,
    entailment: Entailment | None = None,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    known_words: Sequence[str] | None = None,
    description: str = "",
    licence: str = "",
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    weights: Weights = "float32",
    overwrite: bool = False,
) -> Bundle:
    """Write a model bundle and check that it computes what the model computes.

    `overwrite` replaces a bundle at `out`. The model, hyperbolic, is not changed; `safety` and `entailment` are its
    calibration, `text` a tokenizer that `train_tokenizer` has not made. `lift`, `mean` and `std` are of training, and
    `known_words` all of it. ``weights="float16"`` stores matrices in half precision; arithmetic stays in float32.

    Raises:
        SettingsError: There is something at `out` already.
        TrainingError: The model or the tokenizer cannot be exported.
        BundleFormatError: The graphs do not reproduce the model; nothing is written.
    """
    check_target(out := Path(out), overwrite)
    words = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_file(str(tokenizer))
    texts = text or text_spec(words, model.config.text.context_length)
    frozen = _frozen(model, words, texts.end_id, weights)
    spec = ImageSpec(size=model.config.image.size, mean=cast(Any, tuple(mean)), std=cast(Any, tuple(std)))
    image_graph, text_graph = ImageGraph(frozen, mean, std).eval(), TextGraph(frozen, dynamic=texts.dynamic).eval()
    with building(out, overwrite) as folder:
        _write_graphs(image_graph, text_graph, spec, texts, folder)
        uncut(words).save(str(folder / texts.tokenizer))  # the manifest governs cutting and padding
        manifest = Manifest(
            name=name,
            description=description,
            licence=licence,
            dim=model.config.dim,
            curvature=float(frozen.curvature.detach()),
            image=spec,
            text=texts,
            files={path.name: entry_of(path) for path in sorted(folder.iterdir())},
            safety=safety,
            lift=None if lift is None else lift.to_dict(),
            entailment=entailment,
            words=None if known_words is None else tuple(known_words),
            training=dict(training or {}),
            metrics=dict(metrics or {}),
        )
        found = verify_bundle(write_manifest(folder, manifest), image_graph, text_graph)
        found |= {"weights": weights, "precision": "fp32", "opset": OPSET}
        write_manifest(folder, manifest.model_copy(update={"verification": found}))
    return Bundle.load(out)


def _write_graphs(
    image_graph: ImageGraph, text_graph: TextGraph, image: ImageSpec, text: TextSpec, folder: Path
) -> None:
    pixels = torch.zeros(2, image.size, image.size, 3, dtype=torch.uint8)
    write_graph(image_graph, "pixels", pixels, folder / image.file)
    write_graph(text_graph, "tokens", torch.full((2, text.context_length), text.end_id), folder / text.file)


def write_graph(module: nn.Module, source: str, example: Tensor, path: Path) -> None:
    """Export a module on the CPU to a file, see `traced`; weights that lose nothing by it in half precision."""
    proto = traced(module, source, example)
    store_halves(proto)
    save_graph(proto, path)


def traced(module: nn.Module, source: str, example: Tensor, output: str = "point") -> ModelProto:
    """Export a module on the CPU to ONNX, with one input of dynamic batch size and one output."""
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if isinstance(module, TextGraph) and module.dynamic:
        sizes[1] = torch.export.Dim.DYNAMIC
    # torch.export specialises on nothing but these axes; unlike the older tracer it knows sinh.
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=[source],
            output_names=[output],
            dynamic_shapes={source: sizes},
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise BundleFormatError(f"torch.onnx.export gave no program for {type(module).__name__}")
    proto: ModelProto = program.model_proto
    strip(proto)
    return proto


def check_hyperbolic(model: HySAC) -> None:
    """Refuse a model whose points have no radius (`TrainingError`: it is Euclidean)."""
    if model.config.geometry != "hyperbolic":
        raise TrainingError(f"only hyperbolic models can be exported; {model.config.geometry} points have no radius")


def _frozen(model: HySAC, tokenizer: Tokenizer, end: int, weights: Weights) -> HySAC:
    """A float32 copy on the CPU, in evaluation mode; `model` is left as it is."""
    check_hyperbolic(model)
    if tokenizer.get_vocab_size() > model.config.text.vocab_size:
        found = f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model {model.config.text.vocab_size}"
        raise TrainingError(found, hint="Export with the tokenizer of the training run")
    if model.sentences is None and end != tokenizer.get_vocab_size() - 1:
        raise TrainingError(f"the end token has id {end}, not the highest; the text tower would pool elsewhere")
    tensors = [*model.parameters(), *model.buffers()]
    settled = all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.int64) for t in tensors)
    # Weights that nothing will change are shared with the copy: large models would not fit twice.
    shared = {id(t): t for t in tensors} if settled and weights == "float32" else {}
    frozen = copy.deepcopy(model, shared).cpu().float().eval()
    if weights == "float16":
        round_weights(frozen)
    elif weights != "float32":
        raise SettingsError(f"weights is {weights!r}; expected 'float32' or 'float16'")
    return frozen
