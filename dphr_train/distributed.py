"""Several processes train as one: who this process is, its share of a batch, and rows gathered from all of them.

Every process holds the whole network and the rows of its share; the loss is of the joint batch, the same on all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from dphr_infer.errors import ConfigError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(hours=2)  # the others wait while one process evaluates


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, and which one this is.

    Attributes:
        rank: number of this process among all, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, from 0: the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def read_world() -> World:
    """The world that torchrun describes in RANK, WORLD_SIZE and LOCAL_RANK; one process where none of them is set.

    Raises:
        ConfigError: only some are set, or they are not numbers that fit together.
    """
    found = {name: os.environ[name] for name in _NAMES if name in os.environ}
    if not found:
        return World()
    missing = [name for name in _NAMES if name not in found]
    if missing:
        raise ConfigError(
            f"The environment sets {', '.join(found)} but not {', '.join(missing)}: start several processes with "
            f"torchrun, which sets all of them, or unset {', '.join(found)}."
        )
    said = ", ".join(f"{name}={value}" for name, value in found.items())
    try:
        rank, size, local_rank = (int(found[name]) for name in _NAMES)
    except ValueError:
        raise ConfigError(f"The environment says {said}; all three are whole numbers: start with torchrun.") from None
    if not (0 <= rank < size and 0 <= local_rank <= rank):
        raise ConfigError(f"The environment says {said}; 0 <= LOCAL_RANK <= RANK < WORLD_SIZE has to hold.")
    return World(rank, size, local_rank)


@contextmanager
def joined(world: World, device: str) -> Iterator[None]:
    """Be one of the processes of a run: by NCCL on "cuda", by Gloo on "cpu". Alone (size 1) it does nothing.

    On "cuda" the process takes the GPU of its local rank, which "cuda" means from then on. The processes meet at
    torchrun's MASTER_ADDR and MASTER_PORT, and the group is dissolved at the end.

    Raises:
        ConfigError: no meeting point, no GPU of that number, or a device that all processes would share.
    """
    if world.size == 1:
        yield
        return
    missing = [name for name in _MEETING_POINT if name not in os.environ]
    if missing:
        raise ConfigError(f"{world.size} processes meet at {' and '.join(missing)}, not set: start them with torchrun.")
    if device == "cuda":
        count = torch.cuda.device_count()
        if world.local_rank >= count:
            raise ConfigError(
                f"The process of LOCAL_RANK {world.local_rank} needs GPU {world.local_rank}, but this torch sees "
                f"{count} CUDA GPUs: start as many processes as there are GPUs (torchrun --nproc-per-node)."
            )
        torch.cuda.set_device(world.local_rank)
    elif device != "cpu":
        raise ConfigError(f"The device is {device} for all {world.size} processes: give cuda, one GPU for each.")
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def share_rows(pairs: int, world: World) -> slice:
    """Which of a joint batch's rows belong to this process: rank r has the r-th of `size` equal runs of rows.

    Raises:
        ConfigError: the pairs cannot be shared equally.
    """
    if pairs % world.size:
        lower = pairs - pairs % world.size
        near = " or ".join(str(count) for count in (lower, lower + world.size) if count >= 2)
        raise ConfigError(
            f"A batch of {pairs} pairs cannot be shared equally by {world.size} processes: "
            f"set optim.batch-size to {near}."
        )
    share = pairs // world.size
    return slice(world.rank * share, (world.rank + 1) * share)


def gather_exactly(tensor: Tensor) -> Tensor:
    """The rows of all processes, (b, ...) -> (b * size, ...), rank 0's first; no gradient, any dtype, b the same."""
    return torch.cat(_pieces(tensor)) if _size() > 1 else tensor.detach()


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """The rows of all processes, (b, ...) -> (b * size, ...), rank 0's first; this process's own keep their graph.

    Let every process r compute the same loss L of the gathered rows z. The joint batch's gradient of a shared weight w
    is the sum over all rows i of dL/dz_i * dz_i/dw. Process r knows dL/dz_i of every row, for it computes the whole
    loss, but dz_i/dw of its own rows only, so its backward pass gives its part g_r of that sum, and nothing has to be
    sent back to the rows of others. DistributedDataParallel leaves mean(g_r) = (g_0 + g_1 + ...) / size, hence the
    gradient that enters the network is multiplied by `size` once. Weights of the loss itself, such as a temperature,
    get their full gradient on every process and must not be multiplied.
    """
    if _size() == 1:
        return tensor
    pieces = _pieces(tensor)
    pieces[dist.get_rank()] = tensor
    return torch.cat(pieces)


def broadcast_from_first(
    values: NDArray[np.int64] | None, shape: tuple[int, ...], world: World, device: str
) -> NDArray[np.int64]:
    """What rank 0 holds, on every process; the others give None and the shape. Waits for rank 0."""
    found = torch.empty(shape, dtype=torch.int64) if values is None else torch.from_numpy(values.astype(np.int64))
    if world.size > 1:
        found = found.to(device)
        dist.broadcast(found, 0)
    return found.cpu().numpy()


def _size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _pieces(tensor: Tensor) -> list[Tensor]:
    own = tensor.detach().contiguous()
    pieces = [torch.empty_like(own) for _ in range(_size())]
    dist.all_gather(pieces, own)
    return pieces
