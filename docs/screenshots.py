"""Make the pictures of the docs: index the gallery, serve it, and look at it and at its report with Debian's chromium.

python docs/screenshots.py
"""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.browser import browser, served  # noqa: E402

from hysac_retrieval.demo import run_demo, write_report  # noqa: E402
from hysac_retrieval.demo.run import COLLECTION, QUERIES  # noqa: E402
from hysac_retrieval.search.connecting import connect  # noqa: E402
from hysac_retrieval.service import ServiceSettings, create_app  # noqa: E402
from hysac_retrieval.service.keys import make_key  # noqa: E402

SIZE = {"width": 1000, "height": 700}
QUALITY = 70


def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = run_demo(folder)
        report = write_report(demo, folder / "report.html")
        _, key = make_key(folder / "keys.json", "screenshots", ["admin"])
        settings = ServiceSettings(
            keys=folder / "keys.json", anonymous=True, audit=folder / "audit.jsonl", roots={COLLECTION: demo.images}
        )
        with (
            connect(COLLECTION, location=folder / "collections") as engine,
            served(create_app(engine, settings)) as address,
            browser() as chromium,
        ):
            keep_report(chromium, report)
            page = chromium.new_page(viewport=SIZE)
            page.goto(address)
            page.fill("#q", QUERIES[1].query)
            page.keyboard.press("Enter")
            page.wait_for_selector(".card")
            keep(page, "results")
            page.click("#tab-explain")
            page.wait_for_selector(".path")
            keep(page, "explain")
            page.click("#tab-map")
            page.click("#key")
            page.fill("#secret", key)
            page.keyboard.press("Enter")
            page.wait_for_selector("#unsafe-switch:visible")
            page.check("#unsafe")
            page.wait_for_selector("canvas[aria-label*=' 300 points']")
            keep(page, "map")
            page.click("#tab-radii")
            page.wait_for_selector(".threshold")
            page.focus(".threshold")
            for _ in range(3):
                page.keyboard.press("Shift+ArrowRight")
            page.wait_for_selector(".changes .card[data-id]")
            keep(page, "radii")


def keep_report(chromium: Any, report: Path) -> None:
    """Write a picture of the report's second query: all of it shown, as the scenes are drawn."""
    page = chromium.new_page(viewport={"width": 1200, "height": 720})
    page.goto(report.as_uri())
    covers = "section:nth-of-type(2) .columns :is(.cover, .caption button)"
    page.evaluate("(covers) => document.querySelectorAll(covers).forEach((one) => one.click())", covers)
    page.evaluate("document.activeElement.blur(); document.querySelectorAll('.cover').forEach((one) => one.remove())")
    page.evaluate("document.querySelectorAll('section')[1].scrollIntoView()")
    page.wait_for_timeout(500)
    page.screenshot(path=ROOT / "docs" / "assets" / "demo.png")
    page.close()


def keep(page: Any, name: str) -> None:
    """Write a picture of what the window shows, once everything in it has been loaded."""
    page.wait_for_load_state("networkidle")
    page.locator("header").scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    path = ROOT / "docs" / "assets" / f"explorer-{name}.webp"
    Image.open(BytesIO(page.screenshot())).save(path, "WEBP", quality=QUALITY)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
