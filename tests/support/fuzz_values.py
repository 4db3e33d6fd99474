"""Random values for fuzzing, drawn from a `random.Random`: cheaper by far than strategies, and made again by a seed."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

from qdrant_client import models

from support.hostile import ODD_MODELS, ODD_RECORDS, ODD_SCORES, ODD_VERDICTS, OTHER

KEYS = (
    *("hysac", "hysac.safe", "hysac.safe.own", "hysac.unsafe", "hysac.model", "hysac.modality", "hysac[].unsafe"),
    *("k", "nothing", "hysac.radius", "hysac.worst.radius", "hysac.views", ""),
)
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    2**64,
    -(2**63) - 1,
    0.1,
    1e308,
    math.nan,
    math.inf,
    "",
    "\x00",
    "\ud800",
    "own",
    [],
    {},
]
WORDS = (
    "a man",
    "gun",
    "blood",
    "dog",
    "park",
    "\u200b",
    "ｇｕｎ",
    "g u n",
    "nug",
    "😀",
    "\ud800",
    "\x00",
    "café",
    "﷽",
)


ODD_WORST: list[Any] = [
    *({"view": "tile", "radius": radius} for radius in (0.1, 2.5, 9.0, 1e300, -1, None, "2", [0.1, 9.0], True)),
    None,
    {},
    [],
    "tile",
    [{"view": "tile", "radius": 0.1}],
    {"radius": 0.1},
    {"view": ["tile"], "radius": 0.1},
]


def some(random: Random, value: Any, chance: float = 0.5) -> Any:
    """Return a value, or None."""
    return value if random.random() < chance else None


def json_value(random: Random, depth: int = 3) -> Any:
    """Any JSON value, and some that are none."""
    kind = random.randrange(8)
    if depth and kind == 0:
        return [json_value(random, depth - 1) for _ in range(random.randrange(4))]
    if depth and kind == 1:
        return {text(random): json_value(random, depth - 1) for _ in range(random.randrange(4))}
    if kind == 2:
        return nested(random, random.choice((3, 20, 24, 25, 60, 121, 123, 200)))
    if kind == 3:
        return random.choice((1, -1)) * random.getrandbits(random.choice((8, 53, 63, 64, 65, 200)))
    return random.choice(ODD) if kind < 6 else text(random)


def nested(random: Random, levels: int) -> Any:
    """A value in so many objects and lists."""
    value: Any = 1
    for _ in range(levels):
        value = [value] if random.random() < 0.5 else {"a": value}
    return value


def text(random: Random) -> str:
    """A text of words and other characters."""
    if random.random() < 0.1:
        return "".join(chr(random.choice((random.randrange(128), random.randrange(0xD800)))) for _ in range(20))
    words = " ".join(random.choice(WORDS) for _ in range(random.randrange(5)))
    return words * random.choice((1, 1, 1, 50))


def words(random: Random) -> str:
    """A query in words, another one nearly every time."""
    return f"{random.choice(WORDS[:5])} {random.randrange(2**32)}"


def mutated(random: Random, data: bytes, most: int = 8) -> bytes:
    """Bytes with some of them changed, removed, doubled or cut off."""
    found = bytearray(data)
    for _ in range(random.randrange(most)):
        at = random.randrange(len(found) + 1)
        match random.randrange(5):
            case 0 if at < len(found):
                found[at] = random.randrange(256)
            case 1:
                del found[at : at + random.choice((1, 4, 64))]
            case 2:
                found[at:at] = found[at : at + random.choice((1, 16, 512))]
            case 3:
                found[at : at + 4] = random.choice(
                    (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b'"', b"\n", b"[[", b"-1")
                )
            case 4 if random.random() < 0.2:
                del found[at:]
    return bytes(found)


def as_json(value: Any) -> str:
    """A value as JSON, whatever is in it."""
    return json.dumps(value, default=str)


def record(random: Random, own: str) -> dict[str, Any]:
    """The payload of a point that says of itself anything between safe, unsafe and nonsense."""

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {named(key): named(item) for key, item in value.items()}
        return [named(item) for item in value] if isinstance(value, list) else own if value == "own" else value

    ours: Any = {
        "unsafe": random.choice((random.random() / 2, random.random(), random.choice(ODD_SCORES))),
        "radius": 2.0,
        "modality": random.choice(("image", "text", "image", "text", random.choice((None, "sound", ["text"])))),
        "model": random.choice((*["own"] * 6, random.choice(ODD_MODELS))),
        "safe": random.choice((*[{"own": True}] * 6, {"own": False}, random.choice(ODD_VERDICTS))),
    }
    if random.random() < 0.4:
        ours |= {"views": random.choice((9, 1, 0, "9", None)), "worst": random.choice(ODD_WORST)}
    odd = random.randrange(12)
    if odd == 0:
        ours = random.choice(([ours], *ODD_RECORDS))
    elif odd == 1:
        del ours[random.choice(sorted(ours))]
    rest: dict[str, Any] = {"k": random.randrange(4), "hysac.unsafe": 0.0, "hysac.model": own}
    payload: dict[str, Any] = named(rest if odd == 2 else {**rest, "hysac": ours})
    return payload


def condition(random: Random, depth: int) -> Any:
    """A condition on the safety of points or beside it."""
    key = random.choice(KEYS[:-1])
    match random.randrange(10 if depth else 8):
        case 0:
            return models.FieldCondition(key=key, range=models.Range(gte=random.choice((0.0, 0.6, -1.0))))
        case 1:
            value = random.choice((OTHER, "image", 1, True))
            return models.FieldCondition(key=key, match=models.MatchValue(value=value))
        case 2:
            return models.FieldCondition(key=key, match=models.MatchExcept(**{"except": ["image"]}))
        case 3:
            return models.FieldCondition(key=key, values_count=models.ValuesCount(gte=random.randrange(3)))
        case 4:
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
        case 5:
            return models.IsNullCondition(is_null=models.PayloadField(key=key))
        case 6:
            return models.HasIdCondition(has_id=random.sample(range(60), random.randrange(60)))
        case 7:
            return models.HasVectorCondition(has_vector="hysac")
        case 8:
            return user_filter(random, depth - 1)
    return models.NestedCondition(nested=models.Nested(key="hysac", filter=user_filter(random, depth - 1)))


def user_filter(random: Random, depth: int = 2) -> models.Filter:
    """A filter of a caller who wants what is not safe."""

    def clause() -> Any:
        return some(random, [condition(random, depth) for _ in range(random.randrange(4))])

    least = [condition(random, depth) for _ in range(random.randrange(1, 4))]
    either = models.MinShould(conditions=least, min_count=random.randrange(1, 3))
    return models.Filter(must=clause(), should=clause(), must_not=clause(), min_should=some(random, either, 0.3))


def haystack_filter(random: Random, depth: int = 2) -> dict[str, Any]:
    """A filter in Haystack's words, of a caller who wants what is not safe."""
    if depth and random.random() < 0.5:
        parts = [haystack_filter(random, depth - 1) for _ in range(random.randrange(4))]
        return {"operator": random.choice(("AND", "OR", "NOT")), "conditions": parts}
    key = random.choice(KEYS)
    operator = random.choice(("==", "!=", ">", ">=", "<", "<=", "in", "not in"))
    value: Any = random.choice(
        (0, 1, 0.9, -1, True, None, OTHER, "image", "7", 2**53, 2**64, math.nan, "2024-05-01", {})
    )
    several: list[Any] = [random.choice((0, 0.9, None, "image", OTHER, True, "7")) for _ in range(random.randrange(3))]
    field = random.choice((f"meta.{key}", key, "id", "content", "meta", "meta.", "score"))
    return {"field": field, "operator": operator, "value": several if "in" in operator else value}
