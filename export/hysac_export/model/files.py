"""Files of other libraries' encoders: tokenizers, pooling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.errors import EncoderError

Pooling = Literal["mean", "cls", "max"]
"""How vectors of tokens become that of a text."""

_POOLINGS: Mapping[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object; one that does not exist counts as empty.

    Raises:
        EncoderError: It holds anything else.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise EncoderError(f"{path} holds a {type(found).__name__}, expected an object")
    return found


def read_tokenizer(folder: Path, config: Mapping[str, Any], length: int) -> tuple[Tokenizer, TextSpec]:
    """Read the ``tokenizer.json`` of a folder, for texts of up to `length` tokens; `config` is the model's.

    Raises:
        EncoderError: There is none, it is damaged, or it adds no end token.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise EncoderError(f"{folder} has no tokenizer.json", hint="Save it again with a fast tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises bare Exception
        raise EncoderError(f"{path} is no tokenizer: {error}") from error
    padding = tokenizer.padding
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids, bare = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    if not bare or ids[-1:] == bare[-1:]:
        raise EncoderError(f"{path} turns 'a' into {ids}; expected an end token behind it")
    end = ids[-1]
    named = read_json(folder / "tokenizer_config.json").get("pad_token")
    pad = padding["pad_id"] if padding else config.get("pad_token_id")
    if pad is None and isinstance(named, str):
        pad = tokenizer.token_to_id(named)
    if pad is None or pad == end:
        # What stands behind the end counts for nothing; but it must be told from the end.
        pad = 0 if end else 1
    return tokenizer, TextSpec(context_length=length, pad_id=pad, end_id=end, dynamic=True)


def read_pooling(path: Path) -> Pooling:
    """Read how vectors of tokens are pooled, as sentence-transformers writes it down.

    Raises:
        EncoderError: Not at all, or in another way than those that are understood.
    """
    config = read_json(path)
    modes = {key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on}
    if named := config.get("pooling_mode"):
        modes = {key for key, pooling in _POOLINGS.items() if named in (pooling, key)} or {str(named)}
    if len(modes) != 1 or not modes <= _POOLINGS.keys():
        expected = f"one of {', '.join(_POOLINGS)}"
        raise EncoderError(f"{path} asks for pooling by {', '.join(sorted(modes)) or 'nothing'}; expected {expected}")
    return _POOLINGS[modes.pop()]
