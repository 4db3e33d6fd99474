"""The section on langchain-qdrant of docs/integrate.md, run as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.guide import reader

SECTION = "From langchain-qdrant"
EMBEDDINGS = """
from langchain_core.embeddings import Embeddings
from my_clip import embed_text
class Own(Embeddings):
    def embed_query(self, text):
        return embed_text(text)
    def embed_documents(self, texts):
        return [embed_text(text) for text in texts]
embeddings = Own()
"""


def test_the_guide_from_langchain_qdrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_qdrant", reason="langchain-qdrant is not installed, which this section starts from")
    with reader(tmp_path, monkeypatch) as person:
        (tmp_path / "my_embeddings.py").write_text(EMBEDDINGS, "utf-8")
        texts = list(person.captions.values())
        rows = [{"page_content": text, "metadata": {"row": row}} for row, text in enumerate(texts)]
        person.fill("documents", rows, texts)
        names, refused = person.names, False
        for block in person.follow(SECTION):
            if "QdrantVectorStore" not in block:
                continue
            safe = {texts[row] for row in person.safe_ids("documents")}
            assert set() < safe < set(texts)
            assert len(names["found"]) == 3
            assert {document.page_content for document in names["found"]} <= safe
            assert {document.page_content for document in names["store"].similarity_search(texts[0], k=100)} == safe
            through = names["store"].as_retriever(search_kwargs={"k": 100}).invoke(texts[0])
            assert {document.page_content for document in through} == safe
            with pytest.raises(AttributeError, match="only reads"):
                names["store"].add_texts(["a dog"])
            refused = True
        assert refused
        documents = names["documents"]
        assert len(documents) == 3
        assert {document.page_content for document in documents} <= safe
        assert all(document.metadata["row"] == texts.index(document.page_content) for document in documents)
