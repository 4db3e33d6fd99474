from __future__ import annotations

import asyncio
import base64
import io
import logging
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mcp import Client
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as ToolInfo
from PIL import Image
from small_collection import PICTURES, SAFE, fill

from hysac_mcp import Settings, main, make_server
from hysac_mcp.main import engine_of
from hysac_retrieval import AsyncSafeSearch, Encoder, SafeSearch, SafetyPolicy, aconnect, connect
from hysac_retrieval.errors import SettingsError

TOOLS = ["find_by_text", "find_by_image", "similar", "explain"]


def call(server: Any, name: str, *, mode: str = "auto", **arguments: Any) -> CallToolResult:
    async def ask() -> CallToolResult:
        async with Client(server, mode=mode) as client:
            return await client.call_tool(name, arguments)

    return asyncio.run(ask())


def hits(answer: CallToolResult) -> list[dict[str, Any]]:
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    found: list[dict[str, Any]] = answer.structured_content["hits"]
    return found


def error(answer: CallToolResult) -> str:
    assert answer.is_error
    assert isinstance(answer.content[0], TextContent)
    return answer.content[0].text


def listed(server: Any) -> list[ToolInfo]:
    async def ask() -> list[ToolInfo]:
        async with Client(server) as client:
            return (await client.list_tools()).tools

    return asyncio.run(ask())


def encoded(colour: str) -> str:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def index_points(encoder: Encoder, count: int) -> Any:
    return encoder.encode_text(["a dog"]).repeat(count, axis=0)


def test_the_tools_only_read_and_have_no_argument_for_unsafe_results(async_engine: AsyncSafeSearch) -> None:
    tools = listed(make_server(async_engine))
    assert [tool.name for tool in tools] == TOOLS
    for tool in tools:
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
        assert tool.description
        assert "safe" not in tool.input_schema["properties"]
        assert tool.input_schema["additionalProperties"] is False
        assert all("description" in field for field in tool.input_schema["properties"].values())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_text_finds_safe_points(async_engine: AsyncSafeSearch, mode: str) -> None:
    answer = call(make_server(async_engine), "find_by_text", mode=mode, query="a man with a gun")
    assert {hit["id"] for hit in hits(answer)} == SAFE
    assert answer.structured_content is not None
    assert answer.structured_content["query"]["redirected"] is True
    first = hits(answer)[0]
    figures = {"distance", "unsafe", "radius", "modality", "views", "worst", "reviewed"}
    assert first.keys() == {"id", "payload", *figures}
    assert "hysac" not in first["payload"]


def test_number_kind_and_filter_narrow_the_result(async_engine: AsyncSafeSearch) -> None:
    server = make_server(async_engine, limit=2)
    assert len(hits(call(server, "find_by_text", query="a dog"))) == 2
    assert len(hits(call(server, "find_by_text", query="a dog", limit=4))) == 4
    images = hits(call(server, "find_by_text", query="a dog", limit=9, modality="image"))
    assert {hit["id"] for hit in images} == {10, 12}
    few = hits(call(server, "find_by_text", query="a dog", filter={"must": [{"key": "k", "range": {"lt": 2}}]}))
    assert {hit["id"] for hit in few} == {0}


def test_a_picture_finds_what_is_like_it(async_engine: AsyncSafeSearch, tmp_path: Path) -> None:
    server = make_server(async_engine, image_root=tmp_path)
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "blue.png")
    for given in (
        {"image": encoded("blue")},
        {"image": f"data:image/png;base64,{encoded('blue')}"},
        {"image": f"DATA:image/png;charset=x;base64,{encoded('blue')}"},
        {"image": f"data:image/png;base64,{quote(encoded('blue'), safe='')}"},
        {"image": f"data:image/png,{quote(base64.b64decode(encoded('blue')))}"},
        {"image": encoded("blue").replace("+", "-").replace("/", "_")},
        {"image": encoded("blue").rstrip("=")},
        {"image": "\n".join(textwrap.wrap(encoded("blue"), 76)) + "\r\n"},
        {"image": f"data:image/png;base64,\n {encoded('blue')}"},
        {"path": "blue.png"},
    ):
        assert hits(call(server, "find_by_image", limit=1, **given))[0]["id"] == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either image or path"),
        ({"image": "eA==", "path": "x.png"}, "either image or path"),
        ({"image": "not base64!"}, "not base64"),
        ({"image": "eA=="}, "image"),
        ({"image": ""}, "empty"),
        ({"image": "data:image/png;base64,"}, "empty"),
        ({"image": "data:image/png"}, "comma"),
        ({"image": "https://example.org/a.png"}, "not base64"),
        ({"image": "AAAAA"}, "not base64"),
        ({"image": "Zoë="}, "not base64"),
        ({"path": ""}, "no file"),
        ({"path": "x" * 300 + ".png"}, "no file"),
        ({"path": "x/" * 3000}, "no file"),
        ({"path": "a\0b.png"}, "no file"),
        ({"path": "loop"}, "no file"),
        ({"path": "https://example.org/a.png"}, "no file"),
        ({"path": "../secret.png"}, "no file"),
        ({"path": "/etc/hostname"}, "no file"),
        ({"path": "link.png"}, "no file"),
        ({"path": "none.png"}, "no file"),
    ],
)
def test_a_picture_that_cannot_be_read_is_an_error_in_words(
    async_engine: AsyncSafeSearch, tmp_path: Path, given: dict[str, str], message: str
) -> None:
    (tmp_path / "open").mkdir()
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "secret.png")
    (tmp_path / "open" / "loop").symlink_to(tmp_path / "open" / "loop")
    (tmp_path / "open" / "link.png").symlink_to(tmp_path / "secret.png")
    assert message in error(call(make_server(async_engine, image_root=tmp_path / "open"), "find_by_image", **given))


def test_no_file_is_read_unless_a_folder_is_open(async_engine: AsyncSafeSearch, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    server = make_server(async_engine)
    assert "HYSAC_IMAGE_ROOT" in error(call(server, "find_by_image", path=str(tmp_path / "red.png")))
    # A text that is the name of a picture is a text.
    answer = call(server, "find_by_text", query=str(tmp_path / "red.png"))
    assert answer.structured_content is not None
    assert answer.structured_content["query"]["modality"] == "text"


def test_a_stored_point_finds_what_is_like_it(async_engine: AsyncSafeSearch) -> None:
    server = make_server(async_engine)
    assert {hit["id"] for hit in hits(call(server, "similar", id=0))} == SAFE - {0}
    unsafe, nowhere = call(server, "similar", id=1), call(server, "similar", id=999)
    assert unsafe.is_error  # its radius and score would tell what it is
    assert str(unsafe.content).replace("1", "N") == str(nowhere.content).replace("999", "N")
    assert {hit["id"] for hit in hits(call(make_server(async_engine, allow_unsafe=True), "similar", id=1))} == SAFE
    assert "no point" in error(call(server, "similar", id=99)).lower()


IDS = [1, 2**53 + 1, 2**64 - 1, "3d6f0a2e-1111-4111-8111-000000000001"]


@pytest.mark.parametrize(
    ("given", "row"),
    [
        (1, 0),
        (1.0, 0),
        ("1", 0),
        (" 1\n", 0),
        (2**53 + 1, 1),
        (str(2**53 + 1), 1),
        (str(2**64 - 1), 2),
        (IDS[3], 3),
        (str(IDS[3]).upper(), 3),
        (f"{{{IDS[3]}}}", 3),
        (f"urn:uuid:{IDS[3]}", 3),
        (str(IDS[3]).replace("-", ""), 3),
    ],
)
def test_an_id_may_be_given_in_any_of_its_forms(engine: SafeSearch, given: Any, row: int, encoder: Encoder) -> None:
    index = engine.index
    index.delete([*range(6), *PICTURES])
    index.upsert(IDS, index_points(encoder, len(IDS)), modality="text")
    found = hits(call(make_server(aconnect("toy", store=index.store, model=encoder)), "similar", id=given))
    assert {hit["id"] for hit in found} == {*IDS} - {IDS[row]}


@pytest.mark.parametrize("given", ["01", "-1", "+1", "1.0", "one", "", str(2**64), 2**64, -1, 0.5, "²", "1" * 5000])
def test_an_id_that_no_point_can_have_is_an_error_in_words(async_engine: AsyncSafeSearch, given: Any) -> None:
    assert len(error(call(make_server(async_engine), "similar", id=given))) < 1000


def test_hits_may_be_cut_by_distance(async_engine: AsyncSafeSearch) -> None:
    server = make_server(async_engine)
    everything = hits(call(server, "find_by_text", query="a dog"))
    bound = everything[2]["distance"]
    assert hits(call(server, "find_by_text", query="a dog", max_distance=bound)) == everything[:3]
    assert error(call(server, "find_by_text", query="a dog", max_distance=-1))


def test_explain_shows_the_way_to_safety_and_nothing_unsafe(async_engine: AsyncSafeSearch) -> None:
    answer = call(make_server(async_engine), "explain", query="a man with a gun", steps=4)
    assert answer.structured_content is not None
    steps = answer.structured_content["steps"]
    assert len(steps) >= 4
    assert steps[0]["counts_unsafe"]
    assert not steps[-1]["counts_unsafe"]
    assert {hit["id"] for step in steps for hit in (*step["nearest"], *step["entailing"])} <= SAFE


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("find_by_text", {"query": "a dog", "limit": 101}),
        ("find_by_text", {"query": "a dog", "limit": 0}),
        ("find_by_text", {"query": ""}),
        ("find_by_text", {"query": "a dog", "filter": {"must": 3}}),
        ("find_by_text", {"query": "a dog", "modality": "sound"}),
        ("find_by_text", {}),
        ("similar", {"id": "no-uuid"}),
        ("find_by_text", {"query": "a dog", "filter": {"must": [{"key": "k", "range": {"gt": 2**53 + 1}}]}}),
        ("explain", {"query": "a dog", "steps": 1}),
    ],
)
def test_arguments_that_cannot_be_are_errors(async_engine: AsyncSafeSearch, tool: str, given: dict[str, Any]) -> None:
    assert tool in error(call(make_server(async_engine), tool, **given))


def test_unsafe_results_need_the_operator_and_the_policy(engine: SafeSearch, encoder: Encoder) -> None:
    def server(policy: SafetyPolicy) -> Any:
        made = aconnect("toy", store=engine.index.store, model=encoder, policy=policy)
        return make_server(made, allow_unsafe=True)

    open_to_all = server(SafetyPolicy(allow_unsafe=True))
    assert all(tool.input_schema["properties"]["safe"]["default"] is True for tool in listed(open_to_all))
    query: dict[str, Any] = {"query": "a man with a gun"}
    assert {hit["id"] for hit in hits(call(open_to_all, "find_by_text", **query))} == SAFE
    assert len(hits(call(open_to_all, "find_by_text", safe=False, **query))) == 9
    assert len(hits(call(open_to_all, "similar", id=1, safe=False))) == 8
    refused = call(server(SafetyPolicy(allow_unsafe=False)), "find_by_text", safe=False, **query)
    assert "only returns safe results" in error(refused)


ENV = {"COLLECTION_NAME": "toy", "QDRANT_URL": "http://localhost:6333"}


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    settings = Settings.from_env({**ENV, "QDRANT_API_KEY": "key", "HYSAC_THRESHOLD": "", "PATH": "/bin"})
    assert (settings.collection, settings.url, settings.api_key) == ("toy", "http://localhost:6333", "key")
    assert (settings.limit, settings.model, settings.threshold) == (10, "hysac-mini", None)
    assert settings.allow_unsafe is False
    assert settings.image_root is None
    assert "key" not in repr(settings).replace("api_key", "")
    other = Settings.from_env(
        {
            "COLLECTION_NAME": "toy",
            "QDRANT_LOCAL_PATH": str(tmp_path),
            "QDRANT_SEARCH_LIMIT": "3",
            "HYSAC_ALLOW_UNSAFE": "true",
            "HYSAC_THRESHOLD": "0.2",
            "HYSAC_IMAGE_ROOT": str(tmp_path),
        }
    )
    assert (other.local_path, other.limit, other.allow_unsafe, other.threshold) == (tmp_path, 3, True, 0.2)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "COLLECTION_NAME"),
        ({"COLLECTION_NAME": "toy"}, "exactly one of QDRANT_URL"),
        ({**ENV, "QDRANT_LOCAL_PATH": "x"}, "exactly one of QDRANT_URL"),
        ({**ENV, "QDRANT_SEARCH_LIMIT": "many"}, "QDRANT_SEARCH_LIMIT"),
        ({**ENV, "HYSAC_ALLOW_UNSAFE": "perhaps"}, "HYSAC_ALLOW_UNSAFE"),
    ],
)
def test_settings_that_cannot_be_are_named(
    environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.from_env(environ)
    for name in {*ENV, "QDRANT_LOCAL_PATH", "QDRANT_SEARCH_LIMIT", "HYSAC_ALLOW_UNSAFE"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=message):
        main([])


def test_a_server_of_settings_is_safe_by_default_and_logs_what_is_not(
    toy_bundle: Path, encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with connect("toy", location=tmp_path, model=encoder, create=True) as engine:
        fill(engine, encoder)
    environ = {"COLLECTION_NAME": "toy", "QDRANT_LOCAL_PATH": str(tmp_path), "HYSAC_MODEL": str(toy_bundle)}

    async def ask(settings: Settings, **more: Any) -> CallToolResult:
        engine = engine_of(settings)
        try:
            async with Client(make_server(engine, allow_unsafe=settings.allow_unsafe)) as client:
                return await client.call_tool("find_by_text", {"query": "a man with a gun", **more})
        finally:
            await engine.close()

    assert {hit["id"] for hit in hits(asyncio.run(ask(Settings.from_env(environ))))} == SAFE
    assert error(asyncio.run(ask(Settings.from_env(environ), safe=False)))
    with caplog.at_level(logging.WARNING, logger="hysac_mcp.audit"):
        found = asyncio.run(ask(Settings.from_env({**environ, "HYSAC_ALLOW_UNSAFE": "1"}), safe=False))
    assert len(hits(found)) == 9
    assert "a man with a gun" in caplog.text


def test_a_collection_that_is_not_there_is_said_in_words(toy_bundle: Path, tmp_path: Path) -> None:
    environ = {"COLLECTION_NAME": "none", "QDRANT_LOCAL_PATH": str(tmp_path), "HYSAC_MODEL": str(toy_bundle)}
    server = make_server(engine_of(Settings.from_env(environ)))
    assert "no collection 'none'" in error(call(server, "find_by_text", query="a dog"))


def test_a_service_takes_the_place_of_collection_and_model() -> None:
    settings = Settings.from_env({"HYSAC_SERVICE": "http://localhost:8080", "HYSAC_KEY": "hysac_a_b"})
    assert isinstance(engine_of(settings), AsyncSafeSearch)  # nothing is asked yet
    assert "hysac_a_b" not in repr(settings)
    for more in ({"COLLECTION_NAME": "toy"}, {"QDRANT_LOCAL_PATH": "x"}):
        with pytest.raises(SettingsError):
            Settings.from_env({"HYSAC_SERVICE": "http://localhost:8080", **more})
