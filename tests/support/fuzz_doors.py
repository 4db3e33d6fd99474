"""The plugins as doors to a collection under attack: each is made once for it, and asked in its framework's own words.

The engine's policy would allow unsafe results, so that nothing but the plugin stands in the way.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import zlib
from collections.abc import Iterable
from random import Random
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qdrant_client import models

from hysac_retrieval import Index, SafeSearch, SafetyPolicy, aconnect, lorentz
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.views import Judged
from support import fuzz_values as values
from support.spaces import CURVATURE, DIM, random_points

_CALLS = 4  # of a door at a time


class Words:
    """A model of which every text is a point anywhere, and every picture, and the worst view worse or not."""

    dim, curvature, lift = DIM, CURVATURE, None

    def __init__(self, fingerprint: str, safety: SafetyProfile) -> None:
        self.fingerprint, self.safety = fingerprint, safety

    def encode_text(self, texts: list[str], /) -> NDArray[np.float32]:
        seeds = [zlib.crc32(text.encode("utf-8", "surrogatepass")) for text in texts]
        return np.concatenate([random_points(1, seed, low=0.5) for seed in seeds]).astype(np.float32)

    def encode_image(self, images: list[Any], /) -> NDArray[np.float32]:
        return self.encode_text([str(row) for row, _ in enumerate(images)])

    def judge_text(self, texts: list[str], /) -> tuple[NDArray[np.float32], list[Judged]]:
        points = self.encode_text(texts)
        radii = lorentz.dist0(points.astype(np.float64), CURVATURE)
        return points, [
            Judged(2, "window 1", float(radius) + len(text) % 3 / 2, known=(1.0, 0.2)[len(text) % 2])
            for text, radius in zip(texts, radii, strict=True)
        ]

    def judge_image(self, images: list[Any], /) -> tuple[NDArray[np.float32], list[Judged]]:
        return self.judge_text([str(row) for row, _ in enumerate(images)])


class Asked(Protocol):
    """A collection under attack."""

    index: Index
    encoder: Words
    payloads: dict[int, dict[str, Any]]

    def check(self, ids: Iterable[Any]) -> None:
        """Hold an answer to the invariant."""


class Door(Protocol):
    """A plugin over a collection."""

    def __init__(self, world: Asked, runner: asyncio.Runner) -> None: ...

    def ask(self, random: Random) -> int:
        """Ask it some times, and check the answers; returns how many."""


def _engine(world: Asked) -> SafeSearch:
    return SafeSearch(world.index, world.encoder, policy=SafetyPolicy(traversal="none", allow_unsafe=True))


def _async_engine(world: Asked) -> Any:
    policy = SafetyPolicy(allow_unsafe=True)
    return aconnect(world.index.name, store=world.index.store, model=world.encoder, policy=policy)


def _filter(random: Random) -> models.Filter | dict[str, Any] | None:
    """A hostile filter, as a model or in its JSON form."""
    given = values.some(random, values.user_filter(random), 0.8)
    return given if given is None or random.random() < 0.5 else _as_json(given)


def _as_json(given: models.Filter | None) -> dict[str, Any] | None:
    return None if given is None else given.model_dump(mode="json", exclude_none=True, by_alias=True)


class LangChain:
    """The retriever of LangChain."""

    def __init__(self, world: Asked, runner: asyncio.Runner) -> None:
        from langchain_hysac import HySACRetriever

        self._world, self._runner = world, runner
        self._made = HySACRetriever(engine=_engine(world), async_engine=_async_engine(world), k=60)
        self._bound = self._made.with_config(configurable={"safe": False, "search_kwargs": {"safe": False}})

    def ask(self, random: Random) -> int:
        given = {"filter": _filter(random), "score_threshold": values.some(random, random.random(), 0.1)}
        for way in random.choices(("invoke", "bound", "ainvoke"), (4, 1, 1), k=_CALLS):
            query = values.words(random)
            if way == "ainvoke":
                found = self._runner.run(self._made.ainvoke(query, **given))
            else:
                found = (self._made if way == "invoke" else self._bound).invoke(query, **given)
            self._world.check(document.id for document in found)
        return _CALLS


class LlamaIndex:
    """The retriever of LlamaIndex, whose filter is fixed when it is made, which costs little."""

    def __init__(self, world: Asked, runner: asyncio.Runner) -> None:
        from llama_index.core.schema import QueryBundle

        from llama_index.retrievers.hysac import HySACRetriever

        self._world, self._runner, self._bundle, self._kind = world, runner, QueryBundle, HySACRetriever
        self._engines = {"engine": _engine(world), "async_engine": _async_engine(world)}

    def ask(self, random: Random) -> int:
        made = self._kind(
            **self._engines,
            similarity_top_k=random.randrange(1, 70),
            filter=_filter(random),
            modality=random.choice((None, "image", "text")),
            similarity_cutoff=values.some(random, random.random() / 2, 0.1),
        )
        for way in random.choices(("text", "bundle", "async"), (4, 1, 1), k=_CALLS):
            query: Any = values.words(random)
            if way == "bundle":
                query = self._bundle(query, custom_embedding_strs=["unsafe"], embedding=[9.0] * DIM)
            found = self._runner.run(made.aretrieve(query)) if way == "async" else made.retrieve(query)
            self._world.check(node.node.node_id for node in found)
        return _CALLS


class Postprocessor:
    """The postprocessor of LlamaIndex, on nodes that say of themselves that they are safe."""

    def __init__(self, world: Asked, runner: asyncio.Runner) -> None:
        from llama_index.core.schema import ImageNode, NodeWithScore, TextNode

        from llama_index.retrievers.hysac import HySACPostprocessor

        self._world, self._runner = world, runner
        engines = {"engine": _engine(world), "async_engine": _async_engine(world)}
        self._made = [HySACPostprocessor(**engines, id_key=key) for key in (None, "point")]
        lie = {"hysac": {"unsafe": 0.0, "model": world.encoder.fingerprint, "radius": 0.0, "safe": True}}
        self._nodes = [
            NodeWithScore(node=kind(id_=str(one), text="safe", metadata={**lie, "point": point}))
            for one in world.payloads
            for kind, point in ((TextNode, one), (ImageNode, str(one)))
        ]
        # What is no id of a point: let through, it would be one that nobody has judged.
        odd = ("0001", "-1", "1.0", " 1", "x", "", 2**64, None, True, [1], {"a": 1}, 0.5, "٣")
        self._odd = [NodeWithScore(node=TextNode(id_=f"00{one}", metadata={"point": one})) for one in odd]

    def ask(self, random: Random) -> int:
        nodes = [*random.sample(self._nodes, random.randrange(1, 40)), *random.sample(self._odd, 3)]
        made = random.choice(self._made)
        if random.random() < 0.2:
            found = self._runner.run(made.apostprocess_nodes(nodes))
        else:
            found = made.postprocess_nodes(nodes)
        assert not any(node is odd for node in found for odd in self._odd)
        self._world.check(node.node.node_id for node in found)
        return 1


class Haystack:
    """The component of Haystack."""

    def __init__(self, world: Asked, runner: asyncio.Runner) -> None:
        from haystack_integrations.components.retrievers.hysac import HySACRetriever

        self._world, self._runner, engine = world, runner, _engine(world)
        own = {"field": "meta.k", "operator": ">=", "value": 0}
        self._made = [
            HySACRetriever(engine=engine, filters=filters, filter_policy=policy, top_k=60)
            for filters in (None, own)
            for policy in ("replace", "merge")
        ]

    def ask(self, random: Random) -> int:
        made, given = random.choice(self._made), values.some(random, values.haystack_filter(random), 0.9)
        least = values.some(random, random.random() / 2, 0.1)
        for way in random.choices(("run", "run_async"), (5, 1), k=_CALLS):
            run = {"query": values.words(random), "filters": given, "top_k": random.randrange(1, 70)}
            answer = (
                made.run(**run, score_threshold=least)
                if way == "run"
                else self._runner.run(made.run_async(**run, score_threshold=least))
            )
            self._world.check(document.id for document in answer["documents"])
        return _CALLS


class MCP:
    """The tools of the server, with arguments as a client sends them."""

    def __init__(self, world: Asked, runner: asyncio.Runner) -> None:
        from mcp.server.mcpserver.exceptions import ToolError

        from hysac_mcp import make_server

        self._world, self._runner, self._refused = world, runner, ToolError
        self._server = make_server(_async_engine(world))
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(stream, "PNG")
        self._picture = base64.b64encode(stream.getvalue()).decode()

    def ask(self, random: Random) -> int:
        given = _as_json(values.some(random, values.user_filter(random), 0.7))
        for _ in range(_CALLS):
            one = random.choice(sorted(self._world.payloads))
            tool, arguments = random.choice(
                (
                    ("find_by_text", {"query": values.words(random), "limit": random.randrange(1, 70)}),
                    ("find_by_image", {"image": self._picture, "limit": random.randrange(1, 70)}),
                    ("similar", {"id": random.choice((one, str(one), f" {one}")), "limit": 60}),
                    ("explain", {"query": values.words(random), "near": random.randrange(1, 20), "steps": 3}),
                )
            )
            more = values.some(random, {random.choice(("safe", "threshold", "policy", "penalty")): False}, 0.1) or {}
            try:
                answer: Any = self._runner.run(self._server.call_tool(tool, {**arguments, "filter": given, **more}))
            except self._refused:  # also for a point that is not safe, to which nothing is similar
                continue
            assert not more, f"{tool} takes {more}"
            self._world.check(_ids(answer.structured_content))
        return _CALLS


def _ids(value: Any) -> list[Any]:
    """The ids of all hits in an answer, wherever they are."""
    if isinstance(value, dict):
        here = [value["id"]] if {"id", "distance"} <= value.keys() else []
        return here + [one for part in value.values() for one in _ids(part)]
    return [one for part in value for one in _ids(part)] if isinstance(value, list) else []


PLUGINS: dict[str, type[Door]] = {
    "langchain_hysac": LangChain,
    "llama_index.retrievers.hysac": LlamaIndex,
    "llama_index.retrievers.hysac (postprocessor)": Postprocessor,
    "haystack_integrations.components.retrievers.hysac": Haystack,
    "hysac_mcp": MCP,
}
"""By the module that must be there."""


def installed() -> tuple[list[str], list[str]]:
    """Return the plugins that can be asked, and those that cannot."""
    there: list[str] = []
    for name in PLUGINS:
        try:
            importlib.import_module(name.split()[0])
        except ImportError:
            continue
        there.append(name)
    return there, [name for name in PLUGINS if name not in there]
