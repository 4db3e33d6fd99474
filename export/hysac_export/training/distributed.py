"""The processes that train together: one alone, or one for each GPU, started by `accelerate launch`.

Every process encodes its share of the batch, receives the points of all others, and computes the *whole* loss on them,
so negatives come from the whole batch. Gradients flow through what was received: the loss being the same everywhere, so
is its gradient by the points, and each process carries the part that belongs to its own share back through the towers.
Averaged over the processes, gradients are those of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate import PartialState
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from hysac_retrieval.errors import TrainingError


class Processes:
    """This process among those that train together: `rank` of `count`, on `device`.

    The device is ``"cpu"``, ``"cuda"``, or one GPU such as ``"cuda:1"`` for a single process; by default a GPU.

    Raises:
        TrainingError: There is no such device.
    """

    def __init__(self, device: str | None = None) -> None:
        try:
            asked = None if device is None else torch.device(device)
        except RuntimeError as error:
            raise TrainingError(f"{device!r} is no device", hint="Use cpu, cuda, or one GPU such as cuda:1") from error
        state = PartialState(cpu=device == "cpu")
        self.rank: int = state.process_index
        self.count: int = state.num_processes
        self.device = cast(torch.device, state.device)
        if asked is not None and self.count == 1:
            self.device = asked
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise TrainingError(
                f"there is no GPU that torch can use, but {str(self.device)!r} is asked for", hint="Use cpu"
            )
        if asked is not None and asked.type != self.device.type:
            message = f"accelerate launched these processes on {self.device.type!r}, not on {device!r}"
            raise TrainingError(message, hint=f"Launch them with {'--cpu' if device == 'cpu' else '--multi_gpu'}")

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Let the first process go ahead: the files that it downloads or writes are there for the others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a whole batch, safe half first: (2B, …) to (2B / count, …)."""
        if batch.shape[0] % (2 * self.count):
            message = f"a batch of {batch.shape[0] // 2} quadruplets does not divide among {self.count} processes"
            raise TrainingError(message, hint="Set batch_size to a multiple of their number")
        return split_halves(batch, self.count)[self.rank]

    def gather(self, points: Tensor) -> Tensor:
        """The rows of all processes, with gradient, in the order of the whole batch: (2b, …) to (2b · count, …).

        All processes have to compute the same from them.
        """
        if self.count == 1:
            return points
        return join_halves(cast(Sequence[Tensor], _Gather.apply(points, self.rank, self.count)))

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradients by their mean over the processes, of parameters of which all processes have one."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        # One message for each dtype: many small ones cost more than the copies.
        for dtype in sorted({g.dtype for g in gradients}, key=str):
            same = [g for g in gradients if g.dtype == dtype]
            flat = torch.cat([g.flatten() for g in same])
            distributed.all_reduce(flat)
            flat /= self.count
            for gradient, mean in zip(same, torch.split(flat, [g.numel() for g in same]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def agree(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, 0)
        return float(shared)

    def synchronise(self, module: torch.nn.Module) -> None:
        """Make a module the same in all processes: the first one's weights, and batch norms that see all shares."""
        if self.count == 1:
            return
        if any(isinstance(child, _BatchNorm) for child in module.modules()):
            if self.device.type != "cuda":
                raise TrainingError(
                    "batch norms need GPUs to be synchronised", hint="Train a convolutional stem in one process"
                )
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward takes this process's part, as often as there are processes.

    Exact because all processes compute the same loss: the gradients of all of them by these rows are equal, so their
    sum is known without sending anything. The later average over the processes takes the factor away.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, points: Tensor, rank: int, count: int) -> tuple[Tensor, ...]:
        cast(Any, ctx).rank, cast(Any, ctx).count = rank, count
        parts = [torch.empty_like(points) for _ in range(count)]
        distributed.all_gather(parts, points.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        known = cast(Any, ctx)
        return gradients[known.rank] * known.count, None, None


def split_halves(batch: Tensor, count: int) -> list[Tensor]:
    """Cut a batch, safe half first, into `count` batches of the same kind: (2B, …) to (2B / count, …) each."""
    if count == 1:
        return [batch]
    return [part.flatten(0, 1) for part in torch.unflatten(batch, 0, (2, -1)).chunk(count, dim=1)]


def join_halves(parts: Sequence[Tensor]) -> Tensor:
    """Put together what `split_halves` cut apart."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([torch.unflatten(part, 0, (2, -1)) for part in parts], dim=1).flatten(0, 1)
