"""Transformers of kinds that are not written by hand here, exported with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx import ModelProto

from hysac_export.bundle.graphs import OPSET, strip
from hysac_retrieval.errors import EncoderError, MissingExtraError


def exported(folder: Path) -> ModelProto:
    """Export a model of transformers: ``input_ids`` and ``attention_mask`` to ``last_hidden_state``.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        EncoderError: The model cannot be loaded or exported.
    """
    try:
        import torch
        from transformers import AutoModel
    except ImportError as error:
        purpose = f"exporting {folder}, which has no onnx/model.onnx and is no BERT with model.safetensors,"
        raise MissingExtraError(error.name or "transformers", "train", purpose) from error

    class States(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
            return found

    sizes = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)  # of the batch and of its texts
    try:
        # No code of the model's own is run: trust_remote_code is off unless asked for.
        model = AutoModel.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32)
        with torch.no_grad():
            program = torch.onnx.export(
                States(model).eval(),
                (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)),
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=["last_hidden_state"],
                dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # transformers and torch let out whatever they trip over
        raise EncoderError(f"{folder} cannot be exported with transformers: {error}") from error
    if program is None:
        raise EncoderError(f"torch.onnx.export gave no program for {folder}")
    proto: ModelProto = program.model_proto
    strip(proto)
    return proto
