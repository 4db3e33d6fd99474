"""Dockerfile, compose files and workflow, as far as they can be held to account without a Docker engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from hysac_retrieval.cli import main
from hysac_retrieval.stores.versions import FEATURES, METADATA

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
TEST_COMPOSE = ROOT / "docker" / "compose.test.yml"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
NODES = ("qdrant", "qdrant-2", "qdrant-3")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file, anchors resolved."""
    return services_of(COMPOSE)


def services_of(compose: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(compose.read_text("utf-8"))["services"])


def resolved(text: str, **given: str) -> str:
    """A value as compose would make it from these variables."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", lambda found: given.get(found[1], found[2] or ""), text)


def tool(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "schema"), [(COMPOSE, "compose-spec"), (TEST_COMPOSE, "compose-spec"), (WORKFLOW, "github-workflows")]
)
def test_a_file_follows_its_specification(file: Path, schema: str) -> None:
    done = tool(sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", [COMPOSE, TEST_COMPOSE])
def test_no_service_asks_for_more_than_a_daemon_may_give(file: Path) -> None:
    for service in services_of(file).values():
        assert not service.keys() & {"ulimits", "privileged", "sysctls", "mem_limit"}


@pytest.mark.parametrize("place", [COMPOSE, ROOT / "docs" / "deployment.md"])
def test_the_compose_that_knows_optional_dependencies_is_named(services: dict[str, Any], place: Path) -> None:
    assert any("required" in waits for waits in services["index"]["depends_on"].values())
    assert "Docker Compose 2.20 or newer" in place.read_text("utf-8")


@pytest.mark.parametrize("given", [{}, {"QDRANT_VERSION": "v1.16.0", "REST_PORT": "7333", "GRPC_PORT": "7334"}])
def test_the_server_for_tests_is_one_node_whose_address_is_printed(given: dict[str, str]) -> None:
    services = services_of(TEST_COMPOSE)
    assert services.keys() == {"qdrant", "url"}
    node, url = services["qdrant"], services["url"]
    assert resolved(node["image"], **given) == f"qdrant/qdrant:{given.get('QDRANT_VERSION', 'v1.20.0')}"
    assert url["image"] == node["image"]  # nothing else is pulled
    assert "volumes" not in node
    assert url["depends_on"] == {"qdrant": {"condition": "service_healthy"}}
    assert url["profiles"]
    ports = [resolved(port, **given) for port in node["ports"]]
    rest, grpc = given.get("REST_PORT", "6333"), given.get("GRPC_PORT", "6334")
    assert ports == [f"127.0.0.1:{rest}:6333", f"127.0.0.1:{grpc}:6334"]
    printed = tool(*(resolved(part, **given) for part in url["entrypoint"])).stdout
    shown = tool("sh", "-c", f'{printed.strip()}; echo "$QDRANT_URL $QDRANT_GRPC_PORT"').stdout
    assert shown == f"http://localhost:{rest} {grpc}\n"


def test_the_workflow_runs_on_the_oldest_supported_and_on_the_newest_server(services: dict[str, Any]) -> None:
    job = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"]["ci"]
    matrix = job["strategy"]["matrix"]
    tried = {*matrix["qdrant"], *(more["qdrant"] for more in matrix["include"])}
    versions = sorted(tuple(map(int, version.removeprefix("v").split(".")[:2])) for version in tried)
    assert versions[0] == METADATA.since
    assert versions[-1] >= max(feature.since for feature in FEATURES)
    newest = services["qdrant"]["image"]
    assert newest.split(":")[1] in tried
    assert job["services"]["qdrant"]["image"] == "qdrant/qdrant:${{ matrix.qdrant }}"
    assert job["env"]["QDRANT_URL"] == "http://localhost:6333"
    assert {"6333:6333", "6334:6334"} <= set(job["services"]["qdrant"]["ports"])
    assert job["steps"][-1]["run"] == ".ci/run"


def test_every_node_is_pinned_keyed_checked_and_kept(services: dict[str, Any]) -> None:
    volumes: set[str] = set()
    for name in NODES:
        node = services[name]
        version = re.fullmatch(r"qdrant/qdrant:v(\d+)\.(\d+)\.\d+", node["image"])
        assert version is not None
        assert (int(version[1]), int(version[2])) >= (1, 20)
        assert node["environment"]["QDRANT__SERVICE__API_KEY"].startswith("${QDRANT_API_KEY:?")
        assert node["healthcheck"]["test"][0] == "CMD"
        volumes.update(volume.split(":")[0] for volume in node["volumes"])
        for port in node.get("ports", []):
            assert port.startswith("127.0.0.1:")
    assert volumes == set(NODES)


def test_only_the_first_node_is_there_without_the_cluster(services: dict[str, Any]) -> None:
    assert [name for name in NODES if "profiles" not in services[name]] == ["qdrant"]
    for name in NODES[1:]:
        assert services[name]["profiles"] == ["cluster"]
        assert services[name]["command"][-2:] == ["--bootstrap", "http://qdrant:6335"]
    waits = services["index"]["depends_on"]
    assert {name: waits[name].get("required", True) for name in waits} == dict(
        zip(NODES, [True, False, False], strict=True)
    )


@pytest.mark.parametrize("given", [{}, {"SHARDS": "6", "REPLICAS": "2", "COLLECTION": "web"}])
def test_the_indexer_is_called_with_options_that_exist(services: dict[str, Any], given: dict[str, str]) -> None:
    name, *arguments = [resolved(argument, **given) for argument in services["index"]["command"]]
    arguments[0] = str(ROOT / "hysac_retrieval" / "demo" / "gallery")
    context = called(name, *arguments)
    assert context.params["collection"] == given.get("COLLECTION", "photos")
    assert context.params["shards"] == int(given.get("SHARDS", 1))
    assert context.params["replication_factor"] == int(given.get("REPLICAS", 1))
    assert services["index"]["environment"].keys() <= variables_of(context)


def called(name: str, *arguments: str) -> click.Context:
    """Read a command line as hysac would."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command.make_context(name, list(arguments))


def variables_of(context: click.Context) -> set[str]:
    given_by = [getattr(option, "envvar", None) or () for option in context.command.params]
    return {name for names in given_by for name in ([names] if isinstance(names, str) else names)}


def test_the_service_beside_it_is_on_loopback_and_needs_a_key(services: dict[str, Any]) -> None:
    service = services["serve"]
    context = called(*map(resolved, service["command"]))
    given = context.params
    assert given["collection"] == "photos"
    assert (given["anonymous"], given["force"]) == (None, False)
    (keys,) = {volume.split(":")[1] for volume in service["volumes"] if volume.startswith("service:")}
    assert {str(given[name].parent) for name in ("keys", "audit")} == {keys}
    ((source, root),) = given["roots"].items()
    assert source == root == resolved(services["index"]["command"][1])
    assert any(volume.endswith(f":{root}:ro") for volume in service["volumes"])
    assert service["ports"] == [f"127.0.0.1:{given['port']}:{given['port']}"]
    assert f"http://127.0.0.1:{given['port']}/readyz" in service["healthcheck"]["test"][-1]
    assert service["profiles"] == ["serve"]
    assert service["environment"].keys() <= variables_of(context)


def test_the_unit_for_systemd_calls_the_service_with_options_that_exist() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text("utf-8").replace("\\\n", " ")
    unit = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    program, *line = unit["ExecStart"].split()
    given = called(*line).params
    assert program.endswith("/hysac")
    assert {given[name].parts[:4] for name in ("keys", "audit")} == {("/", "var", "lib", unit["StateDirectory"])}
    assert given["hosts"] == ("search.example.org",)


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server that gives every request this status; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("file", [COMPOSE, TEST_COMPOSE])
@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_the_health_check_tells_a_ready_node(file: Path, status: int | None, healthy: bool) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash, which the health check runs in")
    command = services_of(file)["qdrant"]["healthcheck"]["test"][1:]
    with answering(status or 200) as port:
        script = command[-1].replace("/6333", f"/{port}")
        if status is not None:
            assert (tool(*command[:-1], script).returncode == 0) is healthy
    if status is None:
        assert tool(*command[:-1], script).returncode != 0


def test_the_dockerfile_has_no_lint() -> None:
    done = tool(str(Path(sys.executable).with_name("hadolint")), "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def stages() -> list[str]:
    """The stages of the Dockerfile, in order, each from after its FROM; the first is what stands above them."""
    return re.split(r"^FROM ", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)


def test_a_builder_that_builds_all_stages_above_its_target_installs_no_cuda_for_the_cpu() -> None:
    above: list[str] = []
    for stage in stages()[1:]:
        above.append(stage)
        if " AS cpu\n" in stage:
            break
    assert len(above) < len(stages()) - 1
    assert "install.sh cpu" in "".join(above)
    assert "gpu" not in "".join(above)
    assert stages()[-1].strip() == "cpu"  # without a target


def test_both_images_run_as_somebody_else_than_root() -> None:
    images = {name: stage for stage in stages() for name in ("cpu", "gpu") if f" AS {name}\n" in stage}
    assert images.keys() == {"cpu", "gpu"}
    for stage in images.values():
        assert re.search(r"^USER [1-9]\d*$", stage, flags=re.MULTILINE)


def test_the_build_context_is_what_the_image_needs(tmp_path: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {"pyproject.toml", "hysac_retrieval", "export", "docker/install.sh"} <= kept
    for name in kept:
        assert (ROOT / name).exists(), name


@pytest.mark.slow
def test_the_image_recipe_gives_a_working_program_in_a_clean_environment(tmp_path: Path) -> None:
    # The interpreter of these tests goes first: the image has its own as python3.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    clean = {"PATH": f"{tmp_path / 'bin'}:{os.defpath}", "HOME": str(tmp_path)}
    clean |= {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    target = tmp_path / "hysac"
    installed = subprocess.run(
        ["sh", str(ROOT / "docker" / "install.sh"), "cpu", str(target)],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    shown = subprocess.run(
        [target / "bin" / "hysac", "demo", "--out", str(tmp_path / "demo")],
        env=clean,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert (tmp_path / "demo" / "report.html").is_file()


def test_the_image_recipe_refuses_an_unknown_build() -> None:
    done = tool("sh", "docker/install.sh", "tpu", "nowhere")
    assert done.returncode == 2
    assert "expected cpu or gpu" in done.stderr
