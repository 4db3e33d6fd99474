"""ONNX Runtime sessions on the device that was asked for, or an error that says why not.

ONNX Runtime drops a provider that cannot start and goes on without it, in silence. So providers are looked at twice:
before a session is made (is it the right build?) and after (did it start?).
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import BundleFormatError, DeviceError, MissingExtraError, SettingsError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_WANTED: dict[Device, tuple[str, ...]] = {"cpu": (_CPU,), "cuda": (_CUDA, _CPU), "tensorrt": (_TENSORRT, _CUDA, _CPU)}
_CRASHING = ["FuseFp16InitializerToFp32NodeTransformer"]
"""Optimizers that end the process: this one on half precision on a CPU (ONNX Runtime 1.32); others fold the casts."""
_REINSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'hysac-retrieval[gpu]'"

_log = logging.getLogger(__name__)


class DeviceKeywords(TypedDict, total=False):
    """Keywords that say on what graphs run.

    Attributes:
        device: ``"auto"``: a CUDA GPU if this build of ONNX Runtime has one and it starts, else the CPU. ``"cuda"`` and
            ``"tensorrt"`` insist on theirs.
        device_id: Number of the GPU, 0 or more. Default 0.
        threads: CPU threads within an operator; None for one per core.
        inter_threads: Operators that run side by side on the CPU, 1 or more; None for one after the other.
    """

    device: Device
    device_id: int
    threads: int | None
    inter_threads: int | None


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Device and threads that graphs run on; see `DeviceKeywords`.

    Raises:
        SettingsError: An option is out of range.
    """

    device: Device = "auto"
    device_id: int = 0
    threads: int | None = None
    inter_threads: int | None = None

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            raise SettingsError(f"unknown device {self.device!r}; expected one of {', '.join(get_args(Device))}")
        if isinstance(self.device_id, bool) or not isinstance(self.device_id, int) or self.device_id < 0:
            raise SettingsError(f"device_id is {self.device_id!r}; expected the number of a GPU, 0 or more")
        for name, usual in (("threads", "one per core"), ("inter_threads", "one operator at a time")):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SettingsError(f"{name} is {value!r}; expected at least 1, or None for {usual}")

    def providers(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the providers to ask for, best first, with their options.

        Raises:
            MissingExtraError: ONNX Runtime, or its GPU build, is not installed.
            DeviceError: Both builds are installed, and the one without GPU has overwritten the other.
        """
        available = _available(self.device)
        wanted = [name for name in _WANTED["cuda" if self.device == "auto" else self.device] if name in available]
        if self.device in ("cuda", "tensorrt") and _WANTED[self.device][0] not in available:
            raise _lacking(self.device, available)
        return [(name, self._options(name)) for name in wanted]

    def _options(self, provider: str) -> dict[str, Any]:
        if provider == _CPU:
            return {}
        options: dict[str, Any] = {"device_id": self.device_id}
        if provider == _TENSORRT:
            # An engine takes minutes to build; it is kept, for this GPU and this version of TensorRT.
            options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(_cache())}
        return options

    def session(self, path: Path) -> InferenceSession:
        """Load a graph.

        Raises:
            BundleFormatError: ONNX Runtime cannot load it.
            DeviceError: The device did not start.
        """
        from onnxruntime import ExecutionMode, InferenceSession, SessionOptions

        options = SessionOptions()
        options.log_severity_level = 3  # errors only: they become exceptions, warnings would land on stderr
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self.inter_threads is not None:
            options.inter_op_num_threads = self.inter_threads
            options.execution_mode = (
                ExecutionMode.ORT_PARALLEL if self.inter_threads > 1 else ExecutionMode.ORT_SEQUENTIAL
            )
        asked = self.providers()
        try:
            session = InferenceSession(str(path), options, providers=asked, disabled_optimizers=_CRASHING)
        except Exception as error:  # the C++ side has no usable hierarchy
            if asked[0][0] != _CPU and any(sign in str(error) for sign in ("CUDA", "TensorRT", "libnv", "cudnn")):
                raise _not_started(self.device, str(error)) from error
            hint = "Export the bundle again; if memory has run out, give this process more"
            raise BundleFormatError(f"ONNX Runtime cannot load {path}: {error}", hint=hint) from error
        started = session.get_providers()
        if asked[0][0] not in started:
            if self.device != "auto":
                raise _not_started(self.device, f"ONNX Runtime could only start {started}")
            _log.warning("the GPU did not start, so %s runs on the CPU; device='cuda' says why", path.name)
        return session


class Runner(Protocol):
    """Runs a graph of one input."""

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the points (n, d) of a batch of n."""


def runner(session: InferenceSession, device_id: int = 0) -> Runner:
    """Return the best way to run a session: on a GPU through bound, page-locked memory."""
    if session.get_providers()[0] == _CPU:
        name = session.get_inputs()[0].name
        return lambda batch: np.asarray(session.run(["point"], {name: batch})[0], dtype=np.float32)
    return BoundRunner(session, device_id)


class BoundRunner:
    """Runs a session whose input and output are bound, so that nothing is copied but the batch and its points.

    The batch goes to the device once, from page-locked memory where this build of ONNX Runtime hands such memory out,
    and the points come back once. Untested on a GPU.

    Args:
        session: The session.
        device_id: Its GPU.
        device: The device's name; ``"cpu"`` is for tests.
    """

    def __init__(self, session: InferenceSession, device_id: int = 0, device: str = "cuda") -> None:
        self._session = session
        self._name = session.get_inputs()[0].name
        self._device, self._device_id = device, device_id
        self._memory = _host_memory()
        self._own = threading.local()

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """See `Runner`."""
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        held = OrtValue.ortvalue_from_numpy(self._locked(batch), self._device, self._device_id)
        binding.bind_ortvalue_input(self._name, held)
        binding.bind_output("point", self._device, self._device_id)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return np.asarray(binding.copy_outputs_to_cpu()[0], dtype=np.float32)

    def _locked(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the batch in page-locked memory, which the device reads without a further copy; else as it is."""
        if self._memory is None:
            return batch
        from onnxruntime import OrtValue

        kept = getattr(self._own, "kept", None)  # a buffer of each thread, since making one is slow
        if kept is None or kept[1].shape[1:] != batch.shape[1:] or len(kept[1]) < len(batch):
            value = OrtValue.ortvalue_from_shape_and_type(batch.shape, batch.dtype.type, memory_info=self._memory)
            kept = self._own.kept = (value, value.numpy())
        view: NDArray[Any] = kept[1][: len(batch)]
        np.copyto(view, batch)
        return view


def _host_memory() -> Any:
    """Return the memory that this build shares between host and GPU; None if it shares none."""
    try:
        from onnxruntime import OrtDeviceMemoryType, get_ep_devices
    except ImportError:  # older versions
        return None
    found = (
        device.memory_info(OrtDeviceMemoryType.HOST_ACCESSIBLE)
        for device in get_ep_devices()
        if device.ep_name == _CUDA
    )
    return next((memory for memory in found if memory is not None), None)


def _available(device: Device) -> list[str]:
    try:
        from onnxruntime import InferenceSession, get_available_providers  # noqa: F401  an uninstall can leave a shell
    except ImportError as error:
        purpose = "encoding (extra 'cpu', or 'gpu' with an NVIDIA card; never both)"
        extra = "gpu" if device in ("cuda", "tensorrt") else "cpu"
        raise MissingExtraError("onnxruntime", extra, purpose) from error
    found: list[str] = get_available_providers()
    return found


def _lacking(device: Device, available: list[str]) -> Exception:
    """Return the error that says why a build has no GPU."""
    if both_installed():
        return DeviceError(
            f"device {device!r} was asked for, but onnxruntime and onnxruntime-gpu are both installed and overwrite "
            f"each other's files; what is left has {', '.join(available)}",
            hint=f"Reinstall them with: {_REINSTALL}",
        )
    if device == "tensorrt" and _CUDA in available:
        return DeviceError(
            f"this build of ONNX Runtime has no TensorRT ({', '.join(available)})",
            hint="Install one that has it, or use device='cuda'",
        )
    return MissingExtraError(
        "onnxruntime-gpu", "gpu", f"device={device!r} (first `pip uninstall onnxruntime`, the two overwrite each other)"
    )


def _not_started(device: Device, what: str) -> DeviceError:
    libraries = "CUDA, cuDNN and TensorRT" if device == "tensorrt" else "CUDA and cuDNN"
    return DeviceError(
        f"device {device!r} was asked for, but it did not start: {what}",
        hint=f"Check that `nvidia-smi` works and that the {libraries} libraries are those that onnxruntime-gpu wants, "
        "or use device='cpu'",
    )


def both_installed() -> bool:
    """Whether the two builds of ONNX Runtime, which overwrite each other, are both installed."""
    try:
        return bool(version("onnxruntime") and version("onnxruntime-gpu"))
    except PackageNotFoundError:
        return False


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(root) / "hysac" / "tensorrt"
    path.mkdir(parents=True, exist_ok=True)
    return path
