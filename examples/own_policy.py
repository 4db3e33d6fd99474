"""Quadruplets for a policy of one's own: the picture search of a school canteen, with no sweets, fast food or alcohol.

    python examples/own_policy.py canteen --train 6000 --validation 1000 --test 1000

writes canteen/train.jsonl, canteen/validation.jsonl and canteen/test.jsonl with their pictures. docs/own-policy.md goes
on from there. The pictures are composed of the emoji that the trainer carries; yours come from wherever yours are.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from hysac_export.data.scenes import Artist, Scene, caption, catalogue

POLICY = {
    "sweets": ("candy", "lollipop", "chocolate-bar", "ice-cream", "doughnut", "cookie", "cupcake", "birthday-cake"),
    "fast food": ("hamburger", "fries", "pizza", "hot-dog"),
    "alcohol": ("beer", "wine", "whisky"),
}
KNOWN = catalogue()
BANNED = {thing for things in POLICY.values() for thing in things}
# What is always harmless; to this policy a gun is no matter, but a model should not learn that from it.
HARMLESS = [e for e in KNOWN.entities.values() if not e.category and e.id not in BANNED]
FOOD = [e.id for e in HARMLESS if e.kind == "food"]


def twins(rng: np.random.Generator) -> tuple[Scene, Scene, str]:
    """A safe scene, the same with something banned in place of one thing, and the category of that."""
    category = str(rng.choice(list(POLICY)))
    banned = str(rng.choice(POLICY[category]))
    shared = [HARMLESS[i] for i in rng.choice(len(HARMLESS), rng.integers(1, 4), replace=False)]
    # Mostly other food: twins that differ in more than the policy would teach that all food is banned.
    others = FOOD if rng.random() < 0.7 else [e.id for e in HARMLESS]
    instead = str(rng.choice([e for e in others if e not in {s.id for s in shared}]))
    outdoors = any(e.outdoors for e in (*shared, KNOWN.entities[instead]))
    setting = str(rng.choice([s.id for s in KNOWN.settings.values() if not (outdoors and s.indoor)]))
    light = str(rng.choice(list(KNOWN.lights)))
    same = tuple(e.id for e in shared)
    return Scene((*same, instead), setting, light, False), Scene((*same, banned), setting, light, True), category


def write(folder: Path, split: str, n: int, seed: int) -> None:
    """Write n quadruplets as a table and a folder of pictures."""
    artist, rng = Artist(), np.random.default_rng(seed)
    (folder / split).mkdir(parents=True, exist_ok=True)
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as table:
        for number in range(n):
            safe, unsafe, category = twins(rng)
            row = {"category": category}
            for side, scene in (("safe", safe), ("unsafe", unsafe)):
                picture = f"{split}/{number:05}-{side}.png"
                Image.fromarray(artist.draw(scene, rng)).save(folder / picture)
                row |= {side: caption(scene, rng), f"{side}_image": picture}
            table.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for split, size in (("train", 6000), ("validation", 1000), ("test", 1000)):
        parser.add_argument(f"--{split}", type=int, default=size, metavar="N", help=f"quadruplets (default {size})")
    chosen = vars(parser.parse_args())
    for seed, split in enumerate(("train", "validation", "test")):
        write(chosen["folder"], split, chosen[split], seed)
