"""The processes that train together: one alone, or one for each GPU, started by `accelerate launch`.

Every process encodes its share of the batch, receives the points of all others, and computes the *whole* loss on them,
so negatives come from the whole batch. Gradients flow through what was received: each process carries those by its own
points, added up over the processes, back through the towers. Averaged over the processes, gradients are those of one
process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather
from torch.nn.modules.batchnorm import _BatchNorm

from hysac_retrieval.errors import TrainingError


class Processes:
    """This process among those that train together: `rank` of `count`, on `device`; `state` is accelerate's.

    The device is ``"cpu"``, ``"cuda"``, or one GPU such as ``"cuda:1"`` for a single process, by default a GPU
    (`TrainingError`: there is none).
    """

    def __init__(self, device: str | None = None) -> None:
        try:
            asked = None if device is None else torch.device(device)
        except RuntimeError as error:
            raise TrainingError(f"{device!r} is no device", hint="Use cpu, cuda, or one GPU such as cuda:1") from error
        self.state = PartialState(cpu=device == "cpu")
        self.rank: int = self.state.process_index
        self.count: int = self.state.num_processes
        self.device = cast(torch.device, self.state.device)
        if asked is not None and self.count == 1:
            self.device = asked
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise TrainingError(f"torch finds no GPU, but {str(self.device)!r} is asked for", hint="Use cpu")
        if asked is not None and asked.type != self.device.type:
            message = f"accelerate launched these processes on {self.device.type!r}, not on {device!r}"
            raise TrainingError(message, hint=f"Launch them with {'--cpu' if device == 'cpu' else '--multi_gpu'}")

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a whole batch, safe half first: (2B, …) to (2B / count, …)."""
        if batch.shape[0] % (2 * self.count):
            message = f"a batch of {batch.shape[0] // 2} quadruplets does not divide among {self.count} processes"
            raise TrainingError(message, hint="Set batch_size to a multiple of their number")
        return split_halves(batch, self.count)[self.rank]

    def gather(self, points: Tensor) -> Tensor:
        """The rows of all processes, with gradient, in the order of the whole batch: (2b, …) to (2b · count, …)."""
        return points if self.count == 1 else join_halves(all_gather(points))  # type: ignore[no-untyped-call]

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradients by their mean over the processes, of parameters of which all processes have one."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])  # many small messages cost more than the copies
        distributed.all_reduce(flat)
        for gradient, total in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient) / self.count)

    def agree(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        return float(broadcast(shared))

    def synchronise(self, module: torch.nn.Module) -> None:
        """Make a module the same in all processes: the first one's weights, and batch norms that see all shares."""
        if self.count == 1:
            return
        if any(isinstance(child, _BatchNorm) for child in module.modules()):
            if self.device.type != "cuda":
                message = "batch norms need GPUs to be synchronised"
                raise TrainingError(message, hint="Train a convolutional stem in one process")
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)


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
