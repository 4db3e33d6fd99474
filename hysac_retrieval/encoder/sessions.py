"""The graphs of a bundle: each is loaded when it is first run, and compared with the manifest."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.devices import DeviceOptions, Runner, runner
from hysac_retrieval.encoder.graphs import expect_listed
from hysac_retrieval.errors import BundleFormatError
from hysac_retrieval.forks import Origin, abandon_after_fork, keep

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_AFTER_FORK = "Load it after the fork, with Encoder.load or connect in each worker process, or start workers with spawn"
_AGAIN = "Export the bundle again"


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph of a bundle, as the manifest tells of it.

    Attributes:
        of: Its input in words.
        file: Its file.
        name: Name of its input.
        dtype: ONNX Runtime's name of the input's type.
        shape: Shape of the input without the batch axis; None for an axis of any length.
    """

    of: str
    file: str
    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Sessions:
    """Graphs of a bundle on a device. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, device: DeviceOptions) -> None:
        self._bundle = bundle
        self._device = device
        self._open: dict[Graph, tuple[InferenceSession, Runner]] = {}
        self._lock = threading.Lock()
        self._origin: Origin | None = None  # the process that loads the first graph
        abandon_after_fork(self)

    def abandon(self) -> None:
        """Let go of the sessions in a process that was forked: freeing them would wait for threads that it has not."""
        keep(self._open)

    def providers(self, graph: Graph) -> tuple[str, ...]:
        """Load a graph and return ONNX Runtime's names of its providers, first choice first."""
        return tuple(self._session(graph)[0].get_providers())

    def run(self, graph: Graph, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the points (n, dim) of a batch of n.

        Raises:
            BundleFormatError: The graph cannot be loaded or run, or is not what the manifest says.
            DeviceError: The device did not start.
        """
        _, run = self._session(graph)
        where = f"the graph of {graph.of}s, {graph.file} of {self._bundle.path},"
        try:
            points = run(batch)
        except Exception as error:  # the C++ side has no usable hierarchy
            raise BundleFormatError(
                f"{where} cannot be run: {error}",
                hint=f"{_AGAIN}; if memory has run out, give a smaller batch_size",
            ) from error
        if points.shape != (len(batch), self._bundle.manifest.dim):
            raise BundleFormatError(
                f"{where} turned a batch of {len(batch)} into points of shape {points.shape}, expected "
                f"{(len(batch), self._bundle.manifest.dim)}",
                hint=_AGAIN,
            )
        return points

    def _session(self, graph: Graph) -> tuple[InferenceSession, Runner]:
        if self._origin is not None:
            self._origin.expect()
        with self._lock:
            if self._origin is None:
                self._origin = Origin(f"the encoder of model {self._bundle.manifest.name!r}", _AFTER_FORK)
            if graph not in self._open:
                path = self._bundle.file(graph.file)
                expect_listed(path, self._bundle.manifest.files)
                session = self._device.session(path)
                _check(session, path, graph, self._bundle.manifest.dim)
                self._open[graph] = session, runner(session, self._device.device_id)
            return self._open[graph]


def _check(session: InferenceSession, path: Path, graph: Graph, dim: int) -> None:
    """Compare the inputs and outputs of a graph with the manifest."""
    # An axis of any length has a name, or none, where others have a number.
    inputs, outputs = (
        [(i.name, i.type, [size if isinstance(size, int) else None for size in i.shape[1:]]) for i in ends]
        for ends in (session.get_inputs(), session.get_outputs())
    )
    asked, given = [(graph.name, graph.dtype, list(graph.shape))], [("point", "tensor(float)", [dim])]
    if inputs != asked or outputs != given:
        raise BundleFormatError(
            f"{path} takes {inputs} and gives {outputs} (name, type, shape without the batch axis, None for any "
            f"length); the manifest asks for {asked} and {given}",
            hint=_AGAIN,
        )
    batch = session.get_inputs()[0].shape[0]
    if isinstance(batch, int):
        raise BundleFormatError(
            f"the batch axis of {path} is fixed at {batch}", hint="Export it with a dynamic batch axis"
        )
