"""The explorer in a browser: what people do with it, and what nobody can do without the scope."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support.browser import WITHOUT, available, browser, served

from hysac_retrieval.search.figures.report import figures, pictures_in, save, section
from hysac_retrieval.service import Limits, ServiceSettings, create_app

World = Any
Page = Any
PHONE = {"width": 390, "height": 844}
VIEWS = ("results", "explain", "map", "radii", "review")
QUERY = "a man with a gun"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not available(), reason=WITHOUT)]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as made:
        yield made


@pytest.fixture
def address(world: World) -> Iterator[str]:
    settings = ServiceSettings(
        keys=world.key_file,
        anonymous=True,
        audit=world.log,
        roots={"toy": world.folder / "pictures"},
        limits=Limits(rate=0, threads=2),
    )
    with served(create_app(world.engine, settings)) as found:
        yield found


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Callable[..., Page]]:
    """Open the explorer as a person anew; nothing may go wrong in the page or be kept from it."""
    contexts, wrong = [], []

    def dismiss(dialog: Any) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    def open_page(*, width: int = 1200, height: int = 900, colours: str = "light", **state: str) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Security Policy" in said.text else None)
        page.on("dialog", dismiss)
        page.goto(f"{address}?{urlencode(state)}")
        page.wait_for_selector("#tab-results")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def show_key(page: Page, key: str) -> None:
    page.click("#key")
    page.fill("#secret", key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#open:not([open])", state="attached")
    wait_until(page, "document.querySelector('#key').textContent.startsWith('Key')")


def wait_until(page: Page, condition: str) -> None:
    """Wait for an expression to be true; the policy of the page forbids how Playwright itself would wait."""
    until = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < until, condition
        page.wait_for_timeout(30)


def search(page: Page, text: str) -> None:
    page.fill("#q", text)
    page.keyboard.press("Enter")
    settle(page)


def settle(page: Page) -> None:
    wait_until(page, "!document.querySelector('#view').hasAttribute('aria-busy')")
    page.wait_for_load_state("networkidle")


def switch(page: Page, *, on: bool) -> None:
    """Turn the switch. What may be filtered by is asked for first, and only then is searched anew."""
    page.set_checked("#unsafe", on)
    wait_until(page, f"location.search.includes('unsafe=1') === {str(on).lower()}")
    settle(page)


def look_at(page: Page, view: str) -> None:
    page.click(f"#tab-{view}")
    settle(page)


def cards(page: Page) -> list[str]:
    found: list[str] = page.eval_on_selector_all("#view .card", "nodes => nodes.map((node) => node.dataset.id)")
    return found


def test_a_search_shows_what_the_engine_finds_and_stands_in_the_address(world: World, visit: Any) -> None:
    page = visit()
    search(page, QUERY)
    expected = world.engine.search(QUERY, limit=24)
    assert cards(page) == [str(hit.id) for hit in expected]
    first = page.inner_text("#view .card")
    assert f"distance {expected.hits[0].distance:.2f}" in first
    assert f"safe, {expected.hits[0].unsafe:.2f}" in first
    assert f"moved to radius {expected.query.radius_searched:.2f}" in page.inner_text("#done")
    assert "q=a+man+with+a+gun" in page.url
    page.select_option("#kind", "image")
    settle(page)
    pictures = [str(hit.id) for hit in world.engine.search(QUERY, limit=24, modality="image")]
    assert cards(page) == pictures
    page.reload()
    page.wait_for_selector(".card")
    assert cards(page) == pictures
    page.go_back()
    settle(page)
    wait_until(page, "document.querySelectorAll('#view .card').length > 2")
    assert cards(page) == [str(hit.id) for hit in expected]


def test_a_picture_is_chosen_or_dropped(world: World, visit: Any) -> None:
    page = visit()
    path = world.folder / "pictures" / "gore.png"
    expected = [str(hit.id) for hit in world.engine.search(path, limit=24)]
    page.set_input_files("#file", path)
    page.wait_for_selector(".card")
    assert cards(page) == expected
    assert "moved to radius" in page.inner_text("#done")
    page.click("#chosen button")
    page.wait_for_selector(".card", state="detached")
    page.evaluate(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "gore.png", { type: "image/png" }));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        list(path.read_bytes()),
    )
    page.wait_for_selector(".card")
    assert cards(page) == expected


def test_a_key_is_kept_where_no_script_and_no_address_has_it(world: World, visit: Any) -> None:
    page = visit()
    key = world.keys["search:unsafe"]
    assert page.is_hidden("#unsafe-switch")
    show_key(page, key)
    assert page.is_visible("#unsafe-switch")
    search(page, QUERY)
    secret = key.rpartition("_")[2]
    assert secret not in page.url
    assert secret not in page.evaluate("document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")
    assert secret not in page.content()
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.reload()
    page.wait_for_selector("#unsafe-switch:visible")
    page.click("#key")
    page.click("text=Forget the key")
    page.wait_for_selector("#unsafe-switch", state="hidden")
    assert page.context.cookies() == []


def test_unsafe_pictures_are_blurred_until_each_is_asked_for(world: World, visit: Any) -> None:
    page = visit()
    show_key(page, world.keys["search:unsafe"])
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/images/" in request.url else None)
    switch(page, on=True)
    search(page, QUERY)
    everything = {str(one) for one in world.ids(safe=True) | world.ids(safe=False)}
    assert set(cards(page)) == everything
    unsafe = {str(world.id_of(name)) for name in ("gore.png", "wound.png")}
    wait_until(page, "[...document.querySelectorAll('#view img')].every((image) => image.complete)")
    sizes = {one: {url.partition("size=")[2] for url in asked if one in url} for one in unsafe}
    assert sizes == {one: {"16"} for one in unsafe}
    assert not any(text in page.inner_text("#view") for text in (QUERY, "a woman with a knife"))
    shown, other = sorted(unsafe)
    page.click(f"[data-id='{shown}'] .cover")
    page.wait_for_selector(f"[data-id='{shown}'] img:not(.blurred)")
    assert page.is_visible(f"[data-id='{other}'] img.blurred")
    assert not any(other in url and "size=16" not in url for url in asked)
    assert "unsafe=1" in page.url
    switch(page, on=False)
    assert set(cards(page)) == {str(one) for one in world.ids(safe=True)}


def test_the_way_of_a_query_is_shown_with_pictures(world: World, visit: Any) -> None:
    page = visit(q=QUERY, view="explain")
    page.wait_for_selector(".path")
    explained = world.engine.only_safe().explain(QUERY, near=4)
    steps = page.locator(".step")
    assert steps.count() == len(explained.steps)
    for row, step in enumerate(explained.steps):
        text = steps.nth(row).inner_text()
        assert f"radius {step.radius:.2f}" in text
        assert ("searched here" in text) == step.searched
    assert page.locator(".bound").count() == 1
    wait_until(page, "[...document.querySelectorAll('.path img')].some((image) => image.naturalWidth > 0)")
    name = page.get_attribute("svg.levels", "aria-label")
    assert f"{explained.query.radius:.2f}" in name
    assert f"{explained.query.radius_searched:.2f}" in name


def test_dragging_a_threshold_says_what_would_change_and_saves_nothing(world: World, visit: Any) -> None:
    page = visit()
    show_key(page, world.keys["search:unsafe"])
    switch(page, on=True)
    look_at(page, "radii")
    before = world.ids(safe=True)
    line = page.locator(".threshold").last
    box, drawing = line.bounding_box(), page.locator(".histogram").last.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(drawing["x"] + drawing["width"] - 1, box["y"] + 40, steps=6)
    page.mouse.up()
    told = page.locator(".changes").last
    unsafe = {str(world.id_of(name)) for name in ("gore.png", "wound.png")}
    assert "2 points would become safe" in told.inner_text()
    wait_until(page, "document.querySelectorAll('.changes .card[data-id]').length === 2")
    assert set(cards(page)) == unsafe
    line.focus()
    page.keyboard.press("Home")
    assert "2 points would become unsafe" in told.inner_text()
    page.keyboard.press("Escape")
    assert "No point changes sides" in told.inner_text()
    assert world.ids(safe=True) == before


def test_the_map_has_the_safe_points_and_opens_what_is_clicked(world: World, visit: Any) -> None:
    page = visit(q=QUERY, view="map")
    page.wait_for_selector("canvas")
    settle(page)
    drawn = page.evaluate("hysacDisk.map.ids")
    assert set(drawn) == world.ids(safe=True)
    marks = page.evaluate("hysacDisk.marks")
    result = world.engine.search(QUERY)
    assert marks["query"]["asked"] == pytest.approx(result.query.radius)
    assert marks["query"]["searched"] == pytest.approx(result.query.radius_searched)
    assert {drawn[row] for row in marks["hits"]} == {hit.id for hit in result}
    page.focus("canvas")
    page.keyboard.press("+")
    page.wait_for_timeout(100)
    x, y = page.evaluate("hysacDisk.at(hysacDisk.x[0], hysacDisk.y[0]).map((value) => value / hysacDisk.ratio)")
    coloured = page.evaluate(
        """() => {
            const [x, y] = hysacDisk.at(hysacDisk.x[0], hysacDisk.y[0]).map(Math.round);
            const at = y * hysacDisk.canvas.width + x;
            return [...hysacDisk.buffer.slice(at, at + 1)];
        }"""
    )
    assert coloured == [page.evaluate("hysacDisk.pixels[0]")]
    page.locator("canvas").click(position={"x": x, "y": y})
    page.wait_for_selector("#open[open]")
    # Points may lie on each other; it is one that is there.
    opened = page.inner_text("#open-title").removeprefix("Point ")
    places = page.evaluate(
        "[...hysacDisk.map.ids.keys()].map((row) => hysacDisk.at(hysacDisk.x[row], hysacDisk.y[row]))"
    )
    at = places[[str(one) for one in drawn].index(opened)]
    assert abs(at[0] - places[0][0]) + abs(at[1] - places[0][1]) < 12
    page.keyboard.press("Escape")
    page.select_option(".map select", "kind")
    assert "colour=kind" in page.url


def test_map_and_radii_show_what_the_filters_let_through(world: World, visit: Any) -> None:
    points = world.engine.encoder.encode_text(["a dog"] * 4)
    albums = [{"album": name, "text": f"a dog {row}"} for row, name in enumerate("aabb")]
    world.engine.index.upsert(range(4), points, modality="text", payloads=albums)
    page = visit(view="map", **{"f.album": "a"})
    page.wait_for_selector("canvas")
    assert set(page.evaluate("hysacDisk.map.ids")) == {0, 1}
    assert "what the filters let through" in page.inner_text("main")
    look_at(page, "radii")
    assert "what the filters let through" in page.inner_text("main")
    look_at(page, "map")
    page.select_option("#kind", "image")
    page.wait_for_selector("text=0 of 0")
    page.uncheck("input[value='a']")
    images = {hit.id for hit in world.engine.search("a dog", modality="image", limit=100)}
    wait_until(page, f"hysacDisk.map.ids.length === {len(images)}")
    assert set(page.evaluate("hysacDisk.map.ids")) == images


def test_everything_is_reached_by_the_keyboard_alone(world: World, visit: Any) -> None:
    page = visit()
    page.keyboard.type(QUERY)  # the search has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    tab_until(page, "Details")
    page.keyboard.press("Enter")
    page.wait_for_selector("#open[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#open:not([open])", state="attached")
    assert page.evaluate("document.activeElement.textContent") == "Details"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    tab_until(page, "Results")
    for name in ("explain", "map", "radii"):
        page.keyboard.press("ArrowRight")
        settle(page)
        assert page.get_attribute(f"#tab-{name}", "aria-selected") == "true"
    page.wait_for_selector(".threshold")
    page.focus(f"#tab-{name}")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    if page.evaluate("document.activeElement.getAttribute('role')") != "slider":
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    before = page.evaluate("document.activeElement.getAttribute('aria-valuenow')")
    page.keyboard.press("ArrowLeft")
    assert float(page.evaluate("document.activeElement.getAttribute('aria-valuenow')")) < float(before)
    page.focus("#tab-radii")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("canvas")
    settle(page)
    page.focus("canvas")
    page.keyboard.press("Enter")
    page.wait_for_selector("#open[open]")


def tab_until(page: Page, text: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == text:
            return
    raise AssertionError(f"{text} is not reached with Tab")


def test_a_phone_shows_every_view_without_scrolling_sideways(world: World, visit: Any) -> None:
    page = visit(**PHONE, q=QUERY)
    show_key(page, world.keys["admin"])
    switch(page, on=True)
    for view in VIEWS:
        look_at(page, view)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"], view
    look_at(page, "results")
    tops = page.eval_on_selector_all(".card", "nodes => nodes.slice(0, 2).map((node) => node.offsetTop)")
    assert tops[0] == tops[1]  # two beside each other


@pytest.mark.parametrize("scope", [None, "search", "write", "review"])
def test_without_the_scope_nothing_unsafe_is_reached(world: World, visit: Any, scope: str | None) -> None:
    page = visit(q=QUERY, unsafe="1")
    if scope is not None:
        show_key(page, world.keys[scope])
    unsafe = world.ids(safe=False)
    words = [*(str(one) for one in unsafe), "gore.png", "wound.png", "a woman with a knife"]
    seen: list[Any] = []
    texts: list[str] = []
    page.on("response", lambda response: seen.append(response) if "/v1/" in response.url else None)
    for view in VIEWS:
        page.goto(f"{page.url.partition('?')[0]}?{urlencode({'q': QUERY, 'unsafe': '1', 'view': view})}")
        page.wait_for_selector("#tab-results")
        settle(page)
        assert page.locator("#tab-review").count() == 0
        # The control that is hidden is used all the same, there and back.
        for _ in range(2):
            page.evaluate("document.querySelector('#unsafe').click()")
            page.wait_for_load_state("networkidle")
            settle(page)
        texts += filter(None, map(read, seen))  # a page that is left takes its answers with it
        seen.clear()
    assert len(texts) > 10
    assert not [word for word in words for text in texts if word in text]
    assert not [word for word in words if word in page.content()]
    for one in unsafe:
        for path in (f"v1/images/{one}", f"v1/images/{one}?size=16", f"v1/points/{one}"):
            assert page.evaluate("path => fetch(path).then((answer) => answer.status)", path) == 404
        page.goto(f"{page.url.partition('?')[0]}?{urlencode({'id': str(one), 'unsafe': '1'})}")
        settle(page)
        assert not set(cards(page)) & {str(each) for each in unsafe}
    assert not [line for line in world.log.read_text().splitlines() if '"show"' in line or '"unsafe"' in line]


def read(response: Any) -> str:
    """Return what came; nothing of an answer that the page gave up on, or that is a picture."""
    from playwright.sync_api import Error

    try:
        text: str = response.text()
    except (Error, UnicodeDecodeError):
        return ""
    return text


def test_a_reviewer_decides_with_keys_and_takes_it_back(world: World, visit: Any) -> None:
    page = visit()
    show_key(page, world.keys["admin"])
    before = world.ids(safe=True)
    look_at(page, "review")
    page.wait_for_selector(".queue .badge")
    page.focus(".review")
    waiting = page.evaluate("fetch('v1/reviews').then((answer) => answer.json())")["items"]
    first = next(row for row, item in enumerate(waiting) if item["id"] in before)
    for _ in range(first):
        page.keyboard.press("s")
    page.keyboard.press("3")
    wait_until(page, "document.querySelector('#done').textContent.includes('violence')")
    identity = waiting[first]["id"]
    assert world.ids(safe=True) == before - {identity}
    page.keyboard.press("u")
    wait_until(page, "document.querySelector('#done').textContent.includes('Taken back')")
    assert world.ids(safe=True) == before
    page.keyboard.press("ArrowLeft")
    wait_until(page, "document.querySelector('#done').textContent.includes('Decided: safe')")
    left = page.evaluate("fetch('v1/reviews').then((answer) => answer.json())")["items"]
    assert {item["id"] for item in waiting} - {item["id"] for item in left} == {identity}
    events = [json.loads(line)["event"] for line in world.log.read_text().splitlines()]
    assert [event for event in events if event == "review"] == ["review"] * 3


def test_a_visitor_reports_a_point(world: World, visit: Any) -> None:
    page = visit(q="a dog")
    page.wait_for_selector(".card")
    identity = cards(page)[0]
    page.click("text=Details")
    page.click("text=Report it")
    page.wait_for_selector("text=Reported")
    page.keyboard.press("Escape")
    show_key(page, world.keys["admin"])
    look_at(page, "review")
    page.select_option(".review select", "reported")
    page.wait_for_selector("text=1 reports (")
    assert [
        item["id"] for item in page.evaluate("fetch('v1/reviews?order=reported').then((a) => a.json())")["items"]
    ] == [identity]


def test_html_in_a_caption_is_text(world: World, visit: Any) -> None:
    caption = "<img src=x onerror=\"alert('caption')\"><b>a dog</b>"
    world.engine.index.upsert(
        [7],
        world.engine.encoder.encode_text(["a dog"]),
        modality="text",
        payloads=[{"text": caption, caption: caption}],
    )
    page = visit(q="a dog")
    page.wait_for_selector(".card")
    assert caption in page.inner_text("[data-id='7']")
    page.click("[data-id='7'] >> text=Details")
    page.wait_for_selector("#open[open]")
    assert caption in page.inner_text("#open")
    page.keyboard.press("Escape")
    for view in ("explain", "map", "radii"):
        look_at(page, view)
    assert page.locator("b, [onerror]").count() == 0


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_serious(world: World, visit: Any, colours: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed").Axe()
    page = visit(q=QUERY, colours=colours)
    show_key(page, world.keys["admin"])
    switch(page, on=True)
    found = []
    for view in VIEWS:
        look_at(page, view)
        found += serious(axe.run(page), view)
    look_at(page, "results")
    page.click("text=Details")
    page.wait_for_selector("#open[open]")
    found += serious(axe.run(page), "details")
    assert found == []
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(246, 247, 249)",
            "dark": "rgb(15, 20, 26)",
        }[colours]
    )


def serious(result: Any, view: str) -> list[str]:
    return [
        f"{view}: {one['id']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in result.response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def test_a_report_draws_the_same_from_a_file_alone(world: World, chromium: Any, tmp_path: Path) -> None:
    answers = [world.engine.search(QUERY), world.engine.search(QUERY, safe=False)]
    explained = section(world.engine.explain(QUERY, safe=False), answers, title="A query")
    out, roots = tmp_path / "report.html", pictures_in({"toy": world.folder / "pictures"})
    save(figures(world.engine, roots, [explained], safe=False, facts={"indexed": "8"}), out)
    context = chromium.new_context(viewport=PHONE)
    page = context.new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.goto(out.as_uri())
    page.wait_for_selector(".histogram")
    assert page.locator(".columns .card").count() == sum(map(len, answers))
    assert page.locator(".columns .safe .blurred").count() == 0
    assert page.locator(".columns .unsafe .blurred").count() == 2
    assert "8\npictures indexed" in page.inner_text("body")
    assert page.locator(".step").count() == len(world.engine.explain(QUERY, safe=False).steps)
    assert page.locator("canvas").count() == 1
    page.locator(".threshold").last.focus()
    page.keyboard.press("Home")
    assert "2 points would become unsafe" in page.inner_text("body")
    page.keyboard.press("End")
    assert "2 points would become safe" in page.inner_text("body")
    assert page.locator(".changes img.blurred").count() == 2
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed").Axe()
    assert serious(axe.run(page), "report") == []
    context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith("data:")] == [out.as_uri()]
