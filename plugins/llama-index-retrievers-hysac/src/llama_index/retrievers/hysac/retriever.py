"""LlamaIndex retriever; its engine, and with it the safety policy, is fixed at construction."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode

from hysac_retrieval import AsyncSafeSearch, SafeSearch
from hysac_retrieval.integrations import CONTENT_KEYS, FILE_KEY, Fields, FixedSearch, UserFilter, closeness
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.results import Hit, SearchResult
from hysac_retrieval.search.queries import Query
from hysac_retrieval.types import Modality


class _OfPoint:
    """A node that is the same as another if its point is: fusion knows nodes by their `hash`.

    LlamaIndex makes it of the text alone for pictures, which may have the same caption or file name, and of all
    metadata for texts, whose distance is another for every query.
    """

    id_: str
    metadata: dict[str, Any]

    @property
    def hash(self) -> str:
        own = {key: value for key, value in self.metadata.get(PAYLOAD_KEY, {}).items() if key != "distance"}
        identity = f"{self.id_} {self.metadata | {PAYLOAD_KEY: own}}"
        return sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


class _Text(_OfPoint, TextNode):
    pass


class _Image(_OfPoint, ImageNode):
    pass


class HySACRetriever(BaseRetriever):
    """Safe search as a LlamaIndex retriever, with text nodes for texts and image nodes for images.

    A call chooses the query only: ``retriever.retrieve("a dog")``, or an image with
    ``retriever.retrieve(QueryBundle("", image_path="dog.png"))``. The embedding of a bundle, which any model may have
    made, is not used. A node's score is 1 / (1 + distance), its `hash` that of its point: fusion keeps points apart
    that look the same, and one that several queries find is one node.

    Args:
        engine: Engine with its policy (`hysac_retrieval.connect`).
        async_engine: Engine for `aretrieve` (`hysac_retrieval.aconnect`); without it, `engine` in a thread.
        similarity_top_k: Nodes to return at most.
        filter: A Qdrant filter, or its JSON form, that holds in every search.
        modality: Kind of points to find; None for both.
        safe: Whether only safe points may be returned. False needs an engine whose policy allows it.
        content_key: The payload field with a node's text, or several, of which the first present is taken.
            Without one it is the name of the picture's file, or the id.
        metadata_key: The payload field with its metadata; None for all other fields of the payload.
            ``node.metadata["hysac"]`` has id, distance, unsafe score, radius and modality; it is kept out of prompts.
        image_key: The payload field with the path or URL of a picture.
        image_root: The folder that the paths are relative to. Without it, and for paths that lead out of it, nodes
            have no `image_path`: a payload does not say which files of this machine may be read.
        similarity_cutoff: Least score of a node, 0 to 1, as `SimilarityPostprocessor` has it; None for any.
        callback_manager: See `BaseRetriever`.

    Raises:
        SettingsError: There is no engine, or an option is out of range.
        UnsafeNotAllowedError: ``safe=False`` where the engine's policy does not allow it.
    """

    def __init__(
        self,
        engine: SafeSearch | None = None,
        *,
        async_engine: AsyncSafeSearch | None = None,
        similarity_top_k: int = 10,
        filter: UserFilter | None = None,
        modality: Modality | None = None,
        safe: bool = True,
        content_key: str | Sequence[str] = CONTENT_KEYS,
        metadata_key: str | None = None,
        image_key: str = FILE_KEY,
        image_root: str | os.PathLike[str] | None = None,
        similarity_cutoff: float | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager)
        self._search = FixedSearch(engine, async_engine, similarity_top_k, filter, modality, safe, similarity_cutoff)
        self._fields = Fields.of(content_key, metadata_key)
        self._image_key = image_key
        self._image_root = None if image_root is None else Path(image_root).resolve()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._nodes(self._search.search(_query(query_bundle)))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._nodes(await self._search.asearch(_query(query_bundle)))

    def _nodes(self, result: SearchResult) -> list[NodeWithScore]:
        names = self._fields.named(result.hits)
        return [
            NodeWithScore(node=self._node(hit, name), score=closeness(hit))
            for hit, name in zip(result.hits, names, strict=True)
        ]

    def _node(self, hit: Hit, name: str) -> TextNode:
        common: dict[str, Any] = {
            "id_": str(hit.id),
            "text": name,
            "metadata": self._fields.described(hit),
            "excluded_embed_metadata_keys": [PAYLOAD_KEY],
            "excluded_llm_metadata_keys": [PAYLOAD_KEY],
        }
        if hit.modality == "image":
            return _Image(**common, **self._place(hit.payload.get(self._image_key)))
        return _Text(**common)

    def _place(self, value: Any) -> dict[str, str]:
        """Return the path or URL of a node's picture, as arguments of `ImageNode`."""
        if not isinstance(value, str) or not value:
            return {}
        if value.startswith(("http://", "https://")):
            return {"image_url": value}
        if self._image_root is None:
            return {}
        path = (self._image_root / value).resolve()
        return {"image_path": str(path)} if path.is_relative_to(self._image_root) else {}


def _query(bundle: QueryBundle) -> Query:
    return Path(bundle.image_path) if bundle.image_path else bundle.query_str
