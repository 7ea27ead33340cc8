"""Where this process stands among those of one training, and its device."""

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fbr.errors import Refusal

log = logging.getLogger("fbr")


@dataclass(frozen=True)
class Processes:
    """rank of world; one process alone is rank 0 of 1."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes; no gradient flows through."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def share(self, batch: int, accumulate: int) -> int:
        """Images of one process in one accumulated part; the global batch is kept or refused."""
        parts = self.world * accumulate
        if batch % parts:
            raise Refusal(
                f"batch {batch} cannot be split evenly over {self.world} processes × {accumulate} "
                f"accumulated parts; choose a multiple of {parts}, or other processes"
            )
        return batch // parts


def device() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    if torch.cuda.is_available():
        local, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= cards:
            raise Refusal(
                f"params.yaml: machine.processes: found more processes than the {cards} GPUs here; "
                "one process a GPU"
            )
        return torch.device("cuda", local)
    return torch.device("cpu")


def keep_memory() -> None:
    """Keep what this process frees: of a CPU's step, fetching pages anew takes up to 8 %.

    glibc returns large blocks to the system, which clears each page before it comes again. Nothing
    is done where the C library is another one.
    """
    if (tell := getattr(ctypes.CDLL(None), "mallopt", None)) is None:
        return
    map_most, trim_threshold, top_pad = -4, -1, -2  # numbers of malloc.h
    tell(map_most, 0)  # no block has a mapping of its own
    tell(trim_threshold, (1 << 31) - 1)
    tell(top_pad, 64 << 20)


@contextmanager
def joined(threads: int) -> Iterator[Processes]:
    """Join the group that torchrun started, or be alone; leave it at the end."""
    torch.set_num_threads(threads)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    here = device()
    if here.type == "cuda":
        torch.cuda.set_device(here)
        torch.backends.cudnn.benchmark = False
    else:
        keep_memory()
    # The same numbers give the same bytes; where a GPU kernel has no such form, torch says so once.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if world == 1:
        yield Processes(0, 1, here)
        return
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world, here)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        log.warning("another process of this training ended; it says why")
        raise SystemExit(1) from None
    finally:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """Sum over processes, and of the gradients that come back."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class SharedStatistics(nn.BatchNorm2d):
    """Batch norm over the batch of all processes, on any device (torch's own asks for a GPU).

    One process and several then compute the same function of the same global batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = values.numel() // values.shape[1] * dist.get_world_size()
        mean = _Sum.apply(values.sum((0, 2, 3))) / count
        centred = values - mean.view(1, -1, 1, 1)
        var = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = (var + self.eps).rsqrt() * self.weight
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def share_statistics(network: nn.Module) -> None:
    """Let every batch norm that learns its statistics take them from all processes, in place."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedStatistics
