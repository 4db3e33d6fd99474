"""Run the fuzz targets for some minutes, or until a number of answers is checked; print cases and findings.

python tests/fuzz/run.py --minutes 10
python tests/fuzz/run.py --target answers --cases 1000000
python tests/fuzz/run.py --target service --cases 10000
python tests/fuzz/run.py --target shards --seed 123        one case again, with its traceback
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import SystemRandom

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fuzz_answers import Answers
from support.fuzz_targets import TARGETS

_SHOWN = 5  # findings of a target
_SHARE = {"answers": 4}  # of the time; the others have one part each


def main() -> int:
    """Return the number of findings, 255 at most."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, help="for all targets together  [default: 10, or any for --cases]")
    options.add_argument("--cases", type=int, help="stop a target after so many")
    options.add_argument("--target", choices=sorted(TARGETS), action="append")
    options.add_argument("--seed", type=int, help="run one case")
    given = options.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()  # an engine says which odd points it drops
    names = given.target or list(TARGETS)
    parts = sum(_SHARE.get(name, 1) for name in names)
    found = 0
    for name in names:
        minutes = given.minutes or (math.inf if given.cases else 10)
        found += run(name, minutes * 60 * _SHARE.get(name, 1) / parts, given.cases or sys.maxsize, given.seed)
    return min(found, 255)


def run(name: str, seconds: float, cases: int, seed: int | None) -> int:
    """Run one target; returns the number of findings."""
    began, done, findings = time.monotonic(), 0, 0
    this = SystemRandom().getrandbits(32) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="hysac-fuzz-") as folder, TARGETS[name](Path(folder)) as case:
        while time.monotonic() - began < seconds and done < cases:
            try:
                done += case(this)
            except Exception:
                findings += 1
                if findings <= _SHOWN:
                    print(f"{name} --seed {this}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            if seed is not None:
                break
            this += 1
    took = time.monotonic() - began
    print(f"{name:10} {done:>10,} cases in {took:7.1f} s, {findings} findings", flush=True)
    if isinstance(case, Answers):
        print(f"{'':10} {case}", flush=True)
    return findings


if __name__ == "__main__":
    sys.exit(main())
