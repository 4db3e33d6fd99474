"""Which device a session runs on, and what is said when it cannot. No GPU is needed; none is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hysac_retrieval.encoder import devices
from hysac_retrieval.encoder.devices import BoundRunner, DeviceOptions, runner
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import BundleFormatError, DeviceError, MissingExtraError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
Build = Callable[..., list[Any]]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    """A build of ONNX Runtime with some providers, of which some start; returns what sessions were asked for."""

    def pretend(*available: str, starts: tuple[str, ...] = (CPU,), raises: str = "") -> list[Any]:
        asked: list[Any] = []
        real = onnxruntime.InferenceSession

        class Session:
            def __init__(self, path: str, options: Any, providers: list[Any], **_: Any) -> None:
                if raises and providers[0][0] != CPU:
                    raise RuntimeError(raises)
                asked.append((options, providers))
                self._real = real(path, options, providers=[CPU])

            def get_providers(self) -> list[str]:
                return [name for name in (TENSORRT, CUDA, CPU) if name in starts]

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(available))
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        return asked

    return pretend


@pytest.mark.parametrize(
    ("device", "expected"),
    [("auto", [CUDA, CPU]), ("cpu", [CPU]), ("cuda", [CUDA, CPU]), ("tensorrt", [TENSORRT, CUDA, CPU])],
)
def test_providers_are_asked_for_best_first(
    build: Build, device: Any, expected: list[str], toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = build(TENSORRT, CUDA, CPU, starts=(TENSORRT, CUDA, CPU))
    DeviceOptions(device, device_id=1).session(toy_bundle / "text.onnx")
    ((_, providers),) = asked
    assert [name for name, _ in providers] == expected
    for name, options in providers:
        assert options.get("device_id") == (None if name == CPU else 1)
        assert ("trt_engine_cache_path" in options) == (name == TENSORRT)
    assert (tmp_path / "hysac" / "tensorrt").is_dir() == (device == "tensorrt")


def test_threads_are_set(build: Build, toy_bundle: Path) -> None:
    asked = build(CPU)
    Encoder.load(toy_bundle, threads=1, inter_threads=2).encode_text("a dog")
    Encoder.load(toy_bundle, threads=3, inter_threads=1).encode_text("a dog")
    found = [(o.intra_op_num_threads, o.inter_op_num_threads, o.execution_mode.name) for o, _ in asked]
    assert found == [(1, 2, "ORT_PARALLEL"), (3, 1, "ORT_SEQUENTIAL")]


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_both_builds_installed_is_an_error_with_its_mend(
    build: Build, device: Any, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(CPU)
    monkeypatch.setattr(devices, "version", lambda name: "1.20")
    with pytest.raises(DeviceError, match=r"pip uninstall -y onnxruntime onnxruntime-gpu && pip install .*\[gpu\]"):
        Encoder.load(toy_bundle, device=device)
    assert Encoder.load(toy_bundle).encode_text("a dog").shape == (1, 8)


def test_a_build_without_a_gpu_names_the_extra(build: Build) -> None:
    build(CPU)
    with pytest.raises(MissingExtraError, match=r"hysac-retrieval\[gpu\]"):
        DeviceOptions("tensorrt").providers()


def test_a_gpu_build_without_tensorrt_says_so(build: Build) -> None:
    build(CUDA, CPU)
    with pytest.raises(DeviceError, match="no TensorRT"):
        DeviceOptions("tensorrt").providers()


def test_tensorrt_that_falls_back_to_cuda_is_an_error(build: Build, toy_bundle: Path, tmp_path: Path) -> None:
    build(TENSORRT, CUDA, CPU, starts=(CUDA, CPU))
    with pytest.raises(DeviceError, match="could only start") as caught:
        DeviceOptions("tensorrt").session(toy_bundle / "text.onnx")
    assert "TensorRT libraries" in str(caught.value)


def test_auto_goes_on_without_a_gpu_that_does_not_start_and_logs_it(
    build: Build, toy_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(CUDA, CPU)
    encoder = Encoder.load(toy_bundle)
    assert encoder.encode_text(["a dog"]).shape == (1, 8)
    assert encoder.providers("text") == (CPU,)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("raises", "error"), [("libcudnn.so.9: CUDA failure 100", DeviceError), ("bad model", BundleFormatError)]
)
def test_what_stops_a_session_is_told_apart(
    build: Build, toy_bundle: Path, raises: str, error: type[Exception]
) -> None:
    build(CUDA, CPU, raises=raises)
    with pytest.raises(error, match=raises):
        DeviceOptions("cuda").session(toy_bundle / "text.onnx")


def test_bound_memory_gives_the_same_points(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with ordinary memory for page-locked one: batches that grow and shrink, from the same buffer."""
    session = DeviceOptions("cpu", threads=1).session(toy_bundle / "text.onnx")
    plain = runner(session)
    tokens = Encoder.load(toy_bundle).tokenizer(["a dog", "a man with a gun", "the house", "a cat"])
    bound = BoundRunner(session, device="cpu")
    np.testing.assert_array_equal(bound(tokens), plain(tokens))

    real = onnxruntime.OrtValue
    monkeypatch.setattr(devices, "_host_memory", lambda: "host")
    locked = BoundRunner(session, device="cpu")
    made: list[Any] = []

    def allocate(shape: Any, dtype: Any, memory_info: Any) -> Any:
        assert memory_info == "host"
        made.append(shape)
        return real.ortvalue_from_numpy(np.empty(shape, dtype))

    monkeypatch.setattr(real, "ortvalue_from_shape_and_type", allocate)
    for rows in ([0, 1], [2], [1, 3], [0, 1, 2, 3], [3]):
        np.testing.assert_array_equal(locked(tokens[rows]), plain(tokens[rows]))
    assert made == [(2, 8), (4, 8)]


def test_a_session_on_a_gpu_is_run_with_bound_memory(build: Build, toy_bundle: Path) -> None:
    build(CUDA, CPU, starts=(CUDA, CPU))
    session = DeviceOptions("cuda").session(toy_bundle / "text.onnx")
    assert isinstance(runner(session), BoundRunner)
