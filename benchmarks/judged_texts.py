"""Texts for `judged.py`: long ones and ones in disguise, and what judging a query costs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hysac_export.data.scenes import caption, quadruplets
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.encoder import Encoder

Write = Callable[[str], str]

LEET = str.maketrans("aeiost", "431057")
SIGNS = str.maketrans("aeiosl", "@3!0$|")
CYRILLIC = str.maketrans("aeopcxyi", "аеорсхуі")
GREEK = str.maketrans("aovniupkt", "αονηιυρκτ")


COSTLY = ("letters spaced", "leet", "zero-width", "Cyrillic look-alikes", "words in two", "reversed")
"""Disguises whose cost is measured."""

HOSTILE = {"1l!|I": 2, "аеорсху1!": 2, "4310$!|ab": 6}
"""Signs of long texts that can be read in many ways, with the length of their words."""


def shifted(first: int) -> Write:
    """Writes letters as those of another alphabet, which begins there."""
    return lambda text: "".join(chr(first + ord(c) - ord("a")) if "a" <= c <= "z" else c for c in text)


DISGUISES: Mapping[str, Write] = {
    "plain": lambda text: text,
    "upper case": str.upper,
    "fullwidth": shifted(0xFF41),
    "mathematical bold": shifted(0x1D41A),
    "circled": shifted(0x24D0),
    "zero-width": "\u200b".join,
    "soft hyphens": "\u00ad".join,
    "combining marks": "\u0301".join,
    "struck through": "\u0336".join,
    "Cyrillic look-alikes": lambda text: text.translate(CYRILLIC),
    "Greek look-alikes": lambda text: text.translate(GREEK),
    "letters spaced": " ".join,
    "letters hyphened": lambda text: re.sub(r"(?<=\w)(?=\w)", "-", text),
    "letters dotted": ".".join,
    "words in two": lambda text: re.sub(r"(\w\w)(\w+)", r"\1 \2", text),
    "without spaces": lambda text: text.replace(" ", ""),
    "leet": lambda text: text.translate(LEET),
    "leet with signs": lambda text: text.translate(SIGNS),
    "letters doubled": lambda text: re.sub(r"(\w)", r"\1\1", text),
    "reversed": lambda text: text[::-1],
    "words reversed": lambda text: " ".join(word[::-1] for word in text.split()),
    "look-alikes, spaced": lambda text: " ".join(text.translate(CYRILLIC)),
    "zero-width, leet": lambda text: "\u200b".join(text.translate(LEET)),
    "reversed, leet": lambda text: text.translate(LEET)[::-1],
}


def gallery_captions(count: int) -> tuple[list[str], list[str]]:
    """Unsafe and safe captions of the example gallery."""
    path = Path(str(resources.files("hysac_retrieval"))) / "demo" / "gallery" / "captions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    unsafe, safe = ([row["caption"] for row in rows if bool(row["unsafe"]) == kind][:count] for kind in (True, False))
    return unsafe, safe


def scene_captions(split: str, count: int) -> list[str]:
    """Safe captions of a split of the scenes."""
    rng = np.random.default_rng(0)
    return [caption(quadruplet.safe, rng) for quadruplet in quadruplets(split, count)]


def unsafe_shares(encoder: Encoder, texts: Sequence[str]) -> dict[str, float]:
    """Shares of texts that count as unsafe by their own point alone, and judged; and mean number of views."""
    points, found = encoder.judge_text(texts)
    own = lorentz.dist0(points.astype(np.float64), encoder.curvature)
    worst = np.maximum(own, [one.radius for one in found])
    return {
        "own": round(float((~encoder.safety.counts_safe(own, "text")).mean()), 4),
        "judged": round(float((~encoder.safety.counts_safe(worst, "text")).mean()), 4),
        "views": round(float(np.mean([one.views for one in found])), 1),
    }


def measure_disguises(encoder: Encoder, count: int) -> dict[str, Any]:
    """For each way to write a text: shares of unsafe ones missed and of safe ones flagged, before and after."""
    unsafe, safe = gallery_captions(count)
    report = {}
    for kind, write in DISGUISES.items():
        hidden, harmless = (unsafe_shares(encoder, list(map(write, texts))) for texts in (unsafe, safe))
        report[kind] = {
            "missed before": round(1 - hidden["own"], 4),
            "missed": round(1 - hidden["judged"], 4),
            "safe flagged before": harmless["own"],
            "safe flagged": harmless["judged"],
            "views": hidden["views"],
        }
    return report


def measure_long(encoder: Encoder, count: int) -> dict[str, Any]:
    """Captions put together, one of them unsafe or none: the shares of texts that count as unsafe."""
    unsafe, safe = gallery_captions(count)
    rng = np.random.default_rng(0)
    report = {}
    for length in (2, 5, 20):
        for place in ("end", "middle", "nowhere"):
            texts = []
            for row in range(count):
                parts = [
                    safe[n] for n in rng.choice(len(safe), length - (place != "nowhere"), replace=length > len(safe))
                ]
                if place != "nowhere":
                    parts.insert(len(parts) if place == "end" else len(parts) // 2, unsafe[row])
                texts.append(". ".join(parts))
            report[f"{length} captions, unsafe {place}"] = unsafe_shares(encoder, texts)
    return report


def measure_safe_queries(encoder: Encoder, count: int) -> dict[str, Any]:
    """Shares of ordinary safe texts that count as unsafe, before and after; and of those, how many had one view."""
    sets = {"gallery": gallery_captions(count)[1]}
    sets |= {split: scene_captions(split, count) for split in ("validation", "test", "context")}
    return {name: unsafe_shares(encoder, texts) for name, texts in sets.items()}


def measure_cost(count: int) -> dict[str, Any]:
    """Median milliseconds of a query on one thread, encoded alone and judged."""
    unsafe, safe = gallery_captions(count)
    queries = {"ordinary": safe} | {kind: list(map(DISGUISES[kind], unsafe)) for kind in COSTLY}
    encoder = Encoder.load("hysac-mini", threads=1)
    return {
        kind: {
            "encoded": milliseconds(lambda text: encoder.encode_text([text]), texts),
            "judged": milliseconds(lambda text: encoder.judge_text([text]), texts),
        }
        for kind, texts in queries.items()
    }


def measure_hostile(encoder: Encoder) -> dict[str, dict[str, float]]:
    """Milliseconds of texts of 6,000 characters that can be read in many ways, and of how many views they have."""
    rng = np.random.default_rng(0)
    report = {}
    for signs, length in HOSTILE.items():
        words = rng.choice(list(signs), (6_000 // (length + 1), length))
        text = " ".join(map("".join, words))
        report[f"{signs}, {length} a word"] = {
            "readings": milliseconds(encoder.tokenizer.readings, [text]),
            "judged": milliseconds(lambda text: encoder.judge_text([text]), [text]),
            "views": float(len(encoder.text_views(text).names)),
        }
    return report


def milliseconds(ask: Callable[[str], Any], texts: Sequence[str], passes: int = 5) -> float:
    """Median over texts, asked one at a time, of the least processor time of some passes, the first left out.

    Other work on the machine lengthens processor time, too, by up to two times; least of all the least.
    """
    found = np.empty((passes + 1, len(texts)))
    for row in found:
        for column, text in enumerate(texts):
            start = time.thread_time()
            ask(text)
            row[column] = 1e3 * (time.thread_time() - start)
    return round(float(np.median(found[1:].min(axis=0))), 3)


def measure_texts(encoder: Encoder, count: int) -> dict[str, Any]:
    """Everything about texts."""
    return {
        "count": count,
        "disguised": measure_disguises(encoder, count),
        "long": measure_long(encoder, count),
        "ordinary safe queries": measure_safe_queries(encoder, count),
        "milliseconds a query": measure_cost(count),
        "milliseconds a hostile text of 6,000 characters": measure_hostile(encoder),
    }
