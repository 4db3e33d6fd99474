"""Tools, all read-only: find by text, find by image, similar, explain."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import ToolAnnotations
from pydantic import ConfigDict, Field

from hysac_retrieval import AsyncSafeSearch, Explanation, SearchResult
from hysac_retrieval.encoder.inline import picture_bytes
from hysac_retrieval.errors import HysacError
from hysac_retrieval.payload import stored_id
from hysac_retrieval.types import PointId

MAX_LIMIT = 100
INSTRUCTIONS = (
    "Search images and texts by meaning. Only results that count as safe are returned; an unsafe query is moved toward "
    "its safe counterpart, which `query.redirected` tells."
)

Answer = dict[str, Any]
StrPath = str | os.PathLike[str]
ToolFunction = Callable[..., Awaitable[Answer]]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Hits at most.")]
Kind = Annotated[Literal["image", "text"] | None, Field(description="Kind of points to find; null for both.")]
Condition = Annotated[
    dict[str, Any] | None, Field(description="A Qdrant filter in its JSON form; it can only narrow the result.")
]
Farthest = Annotated[
    float | None, Field(ge=0, allow_inf_nan=False, description="Largest distance of a hit; null for any.")
]
Safe = Annotated[bool, Field(description="Whether only safe results may be returned.")]


def make_server(
    engine: AsyncSafeSearch, *, limit: int = 10, allow_unsafe: bool = False, image_root: StrPath | None = None
) -> MCPServer:
    """Make a server for one collection.

    Args:
        engine: Engine with its policy (`hysac_retrieval.aconnect`). The first call of a tool opens it.
        limit: Hits of a search that names no number, 1 to 100.
        allow_unsafe: Whether the tools have an argument `safe`. Without it they only return safe results, and tell
            nothing of unsafe points, whatever the engine's policy allows; with it, the policy decides.
        image_root: Folder in which `find_by_image` may read files; None: pictures are sent along.
    """
    root = None if image_root is None else Path(image_root).resolve()
    if not allow_unsafe:
        engine = engine.only_safe()

    async def find_by_text(
        query: Annotated[str, Field(description="What to look for, in words.")],
        limit: Limit = limit,
        modality: Kind = None,
        filter: Condition = None,
        max_distance: Farthest = None,
        safe: Safe = True,
    ) -> Answer:
        """Find the images and texts whose meaning is nearest to a text."""
        return await _answer(
            engine.search(query, limit=limit, modality=modality, filter=filter, max_distance=max_distance, safe=safe)
        )

    async def find_by_image(
        image: Annotated[str | None, Field(description="The picture: base64, or a data: URL.")] = None,
        path: Annotated[str | None, Field(description="Or its file, if the operator has opened a folder.")] = None,
        limit: Limit = limit,
        modality: Kind = None,
        filter: Condition = None,
        max_distance: Farthest = None,
        safe: Safe = True,
    ) -> Answer:
        """Find the images and texts whose meaning is nearest to a picture."""
        picture = _picture(image, path, root)
        return await _answer(
            engine.search(picture, limit=limit, modality=modality, filter=filter, max_distance=max_distance, safe=safe)
        )

    async def similar(
        id: Annotated[int | str, Field(description="Id of a stored point; an integer may be a string.")],
        limit: Limit = limit,
        modality: Kind = None,
        filter: Condition = None,
        max_distance: Farthest = None,
        safe: Safe = True,
    ) -> Answer:
        """Find the images and texts whose meaning is nearest to that of a stored point."""
        return await _answer(
            engine.similar(
                _point(id), limit=limit, modality=modality, filter=filter, max_distance=max_distance, safe=safe
            )
        )

    async def explain(
        query: Annotated[str, Field(description="A query in words.")],
        steps: Annotated[int, Field(ge=2, le=64, description="Points of the path to the origin.")] = 9,
        near: Annotated[int, Field(ge=1, le=20, description="Results to show at each.")] = 3,
        filter: Condition = None,
        safe: Safe = True,
    ) -> Answer:
        """Show how unsafe a query is: its path to the origin of the space, and the points found at each step."""
        return await _answer(engine.explain(query, steps=steps, near=near, filter=filter, safe=safe))

    functions = (find_by_text, find_by_image, similar, explain)
    tools = [_tool(function if allow_unsafe else _only_safe(function)) for function in functions]
    return MCPServer("hysac", title="Safe search", instructions=INSTRUCTIONS, tools=tools, log_level="WARNING")


def _only_safe(function: ToolFunction) -> ToolFunction:
    """Return the function without its argument `safe`."""
    signature = inspect.signature(function, eval_str=True)

    @wraps(function)
    async def narrowed(**given: Any) -> Answer:
        return await function(**given, safe=True)  # a second `safe` would be a TypeError

    kept = [parameter for name, parameter in signature.parameters.items() if name != "safe"]
    narrowed.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return narrowed


def _tool(function: ToolFunction) -> Tool:
    """Make a tool that is marked as read-only, and for which an unknown argument is an error."""
    made = Tool.from_function(function, annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))

    class Arguments(made.fn_metadata.arg_model):  # type: ignore[misc,name-defined]
        model_config = ConfigDict(extra="forbid", title=f"{function.__name__}Arguments")

    known = made.fn_metadata.model_copy(update={"arg_model": Arguments})
    return made.model_copy(update={"fn_metadata": known, "parameters": Arguments.model_json_schema(by_alias=True)})


async def _answer(found: Awaitable[SearchResult | Explanation]) -> Answer:
    """Return the outcome of a search as JSON values; its errors as messages for the client."""
    try:
        return (await found).to_dict()
    except HysacError as error:
        raise ToolError(str(error)) from error


def _point(value: int | str) -> PointId:
    """Return the id of a point; as a string where a client cannot hold its integer."""
    identity = stored_id(value.strip() if isinstance(value, str) else value)
    if identity is None:
        raise ToolError(f"no point has the id {value!r:.100}; expected an integer from 0 to 2^64 − 1, or a UUID")
    return identity


def _picture(image: str | None, path: str | None, root: Path | None) -> bytes | Path:
    if (image is None) == (path is None):
        raise ToolError("Give either image or path")
    if image is not None:
        try:
            return picture_bytes(image)
        except HysacError as error:
            raise ToolError(f"image: {error}") from None
    if root is None:
        raise ToolError("no folder is open for queries by path (HYSAC_IMAGE_ROOT); send the picture as image")
    with suppress(OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
        file = (root / str(path)).resolve()
        if file.is_relative_to(root) and file.is_file():
            return file
    raise ToolError(f"there is no file {path!r:.200} in the folder that is open for queries")
