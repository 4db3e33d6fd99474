"""A service over pictures and texts of the toy model, some of them unsafe, and clients with keys of each scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.testclient import TestClient

from hysac_retrieval import Encoder, Index, SafeSearch, SafetyPolicy
from hysac_retrieval.ingest import SourceOptions, index_sources
from hysac_retrieval.service import Limits, ServiceSettings, create_app
from hysac_retrieval.service.keys import make_key

COLOURS = {"field.png": "green", "lake.png": "blue", "gore.png": "red", "wound.png": (220, 0, 0)}
TEXTS = ("a dog in the park", "a cat with a red house", "a man with a gun", "a woman with a knife")
SCOPES = ("search", "search:unsafe", "review", "write", "admin")


@dataclass
class World:
    """What is served, and where its files are."""

    folder: Path
    engine: SafeSearch
    keys: dict[str, str]
    clients: list[TestClient] = field(default_factory=list)

    @property
    def key_file(self) -> Path:
        return self.folder / "keys.json"

    @property
    def log(self) -> Path:
        return self.folder / "audit.jsonl"

    def ids(self, *, safe: bool) -> set[Any]:
        """Ids of the points that are safe, or are not, by the engine itself."""
        every = {hit.id for hit in self.engine.search("a dog", safe=False, limit=100)}
        return {hit.id for hit in self.engine.search("a dog", limit=100)} if safe else every - self.ids(safe=True)

    def id_of(self, file: str) -> Any:
        found = self.engine.search("a dog", safe=False, limit=100)
        return next(hit.id for hit in found if file in (hit.payload.get("file"), hit.payload.get("text")))

    def another(self, *scopes: str) -> str:
        """Return another key."""
        return make_key(self.key_file, "another", scopes)[1]

    def plain(self) -> SafeSearch:
        """Return the same search without a policy."""
        return SafeSearch(self.engine.index, self.engine.encoder)

    def client(self, scope: str | None = None, *, engine: SafeSearch | None = None, **settings: Any) -> TestClient:
        """Return a client of a new service, with a key of a scope; None for none."""
        given: dict[str, Any] = {
            "keys": self.key_file,
            "anonymous": True,
            "audit": self.log,
            "roots": {"toy": self.folder / "pictures"},
            "limits": Limits(rate=0, threads=2),
        } | settings
        made = TestClient(
            create_app(engine or self.engine, ServiceSettings(**given)),
            base_url="http://localhost",
            headers=self.shown(scope),
            raise_server_exceptions=False,
        )
        self.clients.append(made)
        made.__enter__()
        return made

    def close(self) -> None:
        """Close clients and engine."""
        for client in self.clients:
            client.__exit__()
        self.engine.close()

    def shown(self, scope: str | None) -> Mapping[str, str]:
        return {} if scope is None else {"Authorization": f"Bearer {self.keys[scope]}"}


def fill(index: Index, encoder: Encoder, folder: Path) -> None:
    """Index the pictures and the texts."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (48, 32), colour).save(folder / "pictures" / name)
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    options = SourceOptions(namespace="toy")
    index_sources([folder / "pictures"], index, encoder, options=options, workers=0)
    index_sources([folder / "texts.txt"], index, encoder, workers=0)


def new_world(folder: Path, encoder: Encoder, policy: SafetyPolicy | None = None) -> World:
    """Index the pictures and the texts into a folder, and make keys for them."""
    index = Index.for_model(encoder, "toy", location=folder / "collections")
    fill(index, encoder, folder)
    keys = {scope: make_key(folder / "keys.json", scope, ["search", scope])[1] for scope in SCOPES}
    return World(folder, SafeSearch(index, encoder, policy=policy), keys)
