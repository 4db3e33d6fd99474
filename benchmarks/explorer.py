"""The explorer in Debian's chromium: its weight, its first paint, and how smoothly its map moves.

    python benchmarks/explorer.py
    python benchmarks/explorer.py --points 20000

Points are synthetic, in a collection of the embedded engine, and come through the service. The map is drawn by the
processor, in a window of 1200 × 900 at one pixel a pixel; it is moved and zoomed with every frame.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from common import RESULTS, show_table, write_report
from points import stored, synthetic

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.browser import browser, served

from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.overview import MOST_POINTS
from hysac_retrieval.service import Limits, ServiceSettings, create_app
from hysac_retrieval.service.keys import make_key

FRAMES, VISITS = 180, 5
PAINT_GOAL, RATE_GOAL, WEIGHT_GOAL = 0.5, 30, 600_000
"""Goals: seconds to the first paint, frames a second, bytes of the page."""

BEGIN = """(key) => fetch("v1/session", {
  method: "POST", body: JSON.stringify({ key }), headers: { "Content-Type": "application/json" },
})"""

MOVE = """(frames) => new Promise((done) => {
  const disk = hysacDisk, times = [];
  disk.frames.length = 0;
  const frame = (now) => {
    times.push(now);
    if (times.length > frames) {
      done({ apart: times.slice(1).map((time, at) => time - times[at]), drawn: disk.frames });
      return;
    }
    disk.zoomBy(times.length % 60 < 30 ? 1.03 : 1 / 1.03);
    disk.move(times.length % 40 < 20 ? 6 : -6, 3);
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})"""


@click.command()
@click.option("--points", default=MOST_POINTS, show_default=True)
@click.option("--out", default=RESULTS / "explorer.json", type=click.Path(path_type=Path))
def main(points: int, out: Path) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as name, stored(synthetic(points, 1, dim=64), payload=_payload) as (index, _):
        folder = Path(name)
        _, key = make_key(folder / "keys.json", "benchmark", ["admin"])
        settings = ServiceSettings(
            keys=folder / "keys.json",
            anonymous=True,
            audit=folder / "audit.jsonl",
            limits=Limits(rate=0, seconds=600),
        )
        with served(create_app(SafeSearch(index, None), settings)) as address, browser() as chromium:
            report = {"points": points, **_first_paint(chromium, address), **_map(chromium, address, key)}
    goals = {"paint_seconds": PAINT_GOAL, "frames_per_second": RATE_GOAL, "bytes": WEIGHT_GOAL}
    show_table(["measured", "value", "goal"], [[name, value, goals.get(name, "")] for name, value in report.items()])
    write_report({**report, "goals": goals}, out)


def _payload(row: int) -> dict[str, Any]:
    return {"album": f"album {row % 7}"}


def _first_paint(chromium: Any, address: str) -> dict[str, Any]:
    """Visit with nothing in any cache, several times; the first visit is the browser's own start."""
    seconds, weight = [], 0
    for _ in range(VISITS + 1):
        context = chromium.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#tab-results")
        page.wait_for_load_state("networkidle")
        seconds.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000)
        files = "[...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]"
        weight = page.evaluate(f"{files}.reduce((sum, one) => sum + one.transferSize, 0)")
        context.close()
    return {"paint_seconds": round(statistics.median(seconds[1:]), 3), "bytes": weight}


def _map(chromium: Any, address: str, key: str) -> dict[str, Any]:
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(600_000)
    page.goto(address)
    page.evaluate(BEGIN, key)
    page.goto(f"{address}?view=map&unsafe=1")
    page.wait_for_selector("canvas")
    page.wait_for_load_state("networkidle")
    drawn = page.evaluate("hysacDisk.map.ids.length")
    (loaded,) = page.evaluate(
        "performance.getEntriesByType('resource').filter((one) => one.name.includes('v1/map'))"
        ".map((one) => [one.duration, one.transferSize])"
    )
    moved = page.evaluate(MOVE, FRAMES)
    context.close()
    apart = sorted(moved["apart"])
    return {
        "drawn": drawn,
        "map_seconds": round(loaded[0] / 1000, 2),
        "map_bytes": loaded[1],
        "frames_per_second": round(1000 * len(apart) / sum(apart), 1),
        "frame_ms_p95": round(apart[int(0.95 * len(apart))], 1),
        "draw_ms_median": round(statistics.median(moved["drawn"]), 2),
    }


if __name__ == "__main__":
    main()
