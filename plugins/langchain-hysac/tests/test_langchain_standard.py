"""LangChain's own tests of a retriever, none of them overridden."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from hysac_retrieval import AsyncSafeSearch, SafeSearch
from langchain_hysac import HySACRetriever


class TestBlockingEngine(RetrieversIntegrationTests):
    params: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _engines(self, engine: SafeSearch) -> None:
        type(self).params = {"engine": engine}

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return HySACRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return self.params

    @property
    def retriever_query_example(self) -> str:
        return "a man with a gun"


class TestBothEngines(TestBlockingEngine):
    @pytest.fixture(autouse=True)
    def _engines(self, engine: SafeSearch, async_engine: AsyncSafeSearch) -> None:
        type(self).params = {"engine": engine, "async_engine": async_engine}
