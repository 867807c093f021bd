"""Two processes against one. Run as a script, this file is one of the two processes."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from dphr_infer.errors import ConfigError
from dphr_train.config import DphrConfig, LossConfig, ModelConfig, OptimConfig
from dphr_train.distributed import (
    World,
    broadcast_from_first,
    gather_exactly,
    gather_with_gradient,
    joined,
    read_world,
    share_rows,
)
from dphr_train.encoder import Encoder
from dphr_train.objective import Objective, Task
from dphr_train.step import PairStep

PAIRS = 6
LOSS = LossConfig(dphr=DphrConfig(window=2, beta=0.5))
CONVNEXT = ModelConfig("test_convnext", "random", checkpoint_gradients=True)
CASES = {
    "whole": {},
    "with places as classes": {"loss": dataclasses.replace(LOSS, identity=0.5)},
    "two sizes": {"reference_px": (10, 14)},
    "ragged chunks": {"chunk_size": 2},
    "chunks of two sizes": {"chunk_size": 1, "reference_px": (10, 14)},
    "convnext": {"model": CONVNEXT, "query_px": (32, 32)},
    "convnext in chunks": {"model": CONVNEXT, "query_px": (32, 32), "chunk_size": 2},
}


class Smooth(nn.Module):
    """A double-precision network whose rows do not know each other; two parts of length 5."""

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    n_parts, part_dim = 2, 5

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.GroupNorm(2, 8)
        self.project = nn.Linear(8, 10)
        self.unused = nn.Linear(2, 2)
        self.double()

    def parts(self, images):
        pooled = self.norm(torch.tanh(self.conv(images.double()))).mean(dim=(2, 3))
        return self.project(pooled).view(-1, 2, 5)


def three_steps(world, model=None, loss=LOSS, chunk_size=0, query_px=(12, 12), reference_px=None):
    """Gradients and weights after three steps of plain descent, the last terms, and PALW's state."""
    torch.manual_seed(3 + (0 if model else world.rank))  # other weights on rank 1: rank 0's have to win
    encoder = Encoder(model, query_px[0]).to(memory_format=torch.channels_last) if model else Smooth()
    objective = Objective(loss, Task([0, 1, 2, 3, 4], encoder.n_parts, encoder.part_dim))
    if model is None:
        objective.double()
    config = OptimConfig(batch_size=PAIRS, chunk_size=chunk_size)
    step = PairStep(encoder, objective, config, world, torch.amp.GradScaler("cpu", enabled=False))
    parameters = {**dict(encoder.named_parameters()), **dict(objective.named_parameters(prefix="loss"))}
    random = torch.Generator().manual_seed(5)
    for _ in range(3):
        queries = torch.randint(0, 256, (PAIRS, *query_px, 3), generator=random, dtype=torch.uint8)
        references = torch.randint(0, 256, (PAIRS, *(reference_px or query_px), 3), generator=random, dtype=torch.uint8)
        batch = queries, references, torch.tensor([4, 1, 3, 0, 4, 2])
        terms = step.backward(tuple(tensor[share_rows(len(batch[2]), world)] for tensor in batch))
        with torch.no_grad():
            for parameter in parameters.values():
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad
    tensors = {f"grad {name}": value.grad for name, value in parameters.items() if value.grad is not None}
    tensors |= {f"weight {name}": value.detach() for name, value in parameters.items()}
    return tensors, {
        "terms": terms,
        "palw": {name: value.tolist() for name, value in objective.dphr.palw.state_dict().items()},
    }


def run_as_one_of_two(out: Path):
    world = read_world()
    with joined(world, "cpu"):
        rows = torch.tensor([[10.0 * world.rank, 1.0], [10.0 * world.rank + 5, 2.0]], requires_grad=True)
        gathered = gather_with_gradient(rows)
        (gathered * torch.arange(8.0).view(4, 2)).sum().backward()
        places = gather_exactly(torch.tensor([7, 2**40 + world.rank]))
        lists = np.array([[3, 2**40]]) if world.rank == 0 else None
        lists = torch.from_numpy(broadcast_from_first(lists, (1, 2), world, "cpu"))
        save_file(
            {"lists": lists, "gathered": gathered.detach(), "grad": rows.grad, "places": places},
            out / f"rows {world.rank}",
        )
        for name, case in CASES.items():
            tensors, state = three_steps(world, **case)
            save_file({key: value.contiguous() for key, value in tensors.items()}, out / f"{name} {world.rank}")
            (out / f"{name} {world.rank}.json").write_text(json.dumps(state))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, __file__, str(out)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "\n".join(errors)
    return out


@pytest.mark.parametrize("name", CASES)
def test_two_processes_take_the_steps_of_one(name, two_processes):
    one, state = three_steps(World(), **CASES[name])
    tolerance = {"rtol": 1e-4, "atol": 2e-6} if "model" in CASES[name] else {"rtol": 1e-10, "atol": 1e-12}
    for rank in range(2):
        two = load_file(two_processes / f"{name} {rank}")
        assert two.keys() == one.keys() and "grad loss.infonce.logit_scale" in two
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, **tolerance, msg=lambda text, key=key: f"{key}: {text}")
        said = json.loads((two_processes / f"{name} {rank}.json").read_text())
        assert said["terms"] == pytest.approx(state["terms"], rel=1e-4)
        assert said["palw"]["recent"] == pytest.approx(state["palw"]["recent"], rel=1e-4)
        assert said["palw"]["balance"] == pytest.approx(state["palw"]["balance"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_both_processes_hold_the_same_bits(name, two_processes):
    one, two = (load_file(two_processes / f"{name} {rank}") for rank in range(2))
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    states = [json.loads((two_processes / f"{name} {rank}.json").read_text()) for rank in range(2)]
    assert states[0] == states[1] and len(states[0]["palw"]["recent"]) == 2


def test_gathered_rows_come_rank_by_rank_and_the_own_ones_keep_their_graph(two_processes):
    for rank in range(2):
        found = load_file(two_processes / f"rows {rank}")
        assert found["gathered"].tolist() == [[0, 1], [5, 2], [10, 1], [15, 2]]
        assert found["grad"].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]][rank]
        assert found["lists"].tolist() == [[3, 2**40]]
        assert found["places"].tolist() == [7, 2**40, 7, 2**40 + 1]


def test_alone_nothing_is_gathered():
    rows = torch.ones(2, 3, requires_grad=True)
    with joined(World(), "cpu"):
        assert gather_with_gradient(rows) is rows
        assert gather_exactly(torch.tensor([3, 1])).tolist() == [3, 1]


def test_a_share_is_the_ranks_own_run_of_rows():
    images, places = torch.arange(6).view(6, 1, 1, 1), torch.arange(6) + 10
    rows = [share_rows(len(places), World(rank, 3, rank)) for rank in range(3)]
    shares = [(images[share], images[share] * 2, places[share]) for share in rows]
    assert [share[2].tolist() for share in shares] == [[10, 11], [12, 13], [14, 15]]
    assert shares[1][0].flatten().tolist() == [2, 3] and shares[1][1].flatten().tolist() == [4, 6]
    assert [10, 11, 12, 13, 14, 15][share_rows(6, World(2, 3, 2))] == [14, 15]


@given(share=st.integers(1, 40), size=st.integers(1, 9))
def test_the_shares_in_the_order_of_the_ranks_are_the_batch(share, size):
    rows = list(range(share * size))
    shares = [rows[share_rows(len(rows), World(rank, size, 0))] for rank in range(size)]
    assert [row for each in shares for row in each] == rows and {len(each) for each in shares} == {share}


@pytest.mark.parametrize(
    ("pairs", "size", "message"),
    [
        (50, 4, "A batch of 50 pairs cannot be shared equally by 4 processes: set optim.batch-size to 48 or 52."),
        (3, 4, "A batch of 3 pairs cannot be shared equally by 4 processes: set optim.batch-size to 4."),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_with_both_numbers(pairs, size, message):
    with pytest.raises(ConfigError) as error:
        share_rows(pairs, World(0, size, 0))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("environment", "world"),
    [({}, World(0, 1, 0)), ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, World(5, 8, 1))],
)
def test_the_world_is_torchruns(environment, world, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read_world() == world


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "sets WORLD_SIZE but not RANK, LOCAL_RANK"),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "sets RANK, LOCAL_RANK but not WORLD_SIZE"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=2, WORLD_SIZE=2, LOCAL_RANK=0; 0 <="),
        ({"RANK": "one", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=one, WORLD_SIZE=2, LOCAL_RANK=0; all three"),
    ],
)
def test_half_a_world_is_refused(environment, message, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        read_world()


@pytest.mark.parametrize(
    ("world", "device", "message"),
    [
        (World(3, 4, 3), "cuda", "LOCAL_RANK 3 needs GPU 3, but this torch sees 2 CUDA GPUs"),
        (World(1, 2, 1), "cuda:1", "The device is cuda:1 for all 2 processes: give cuda"),
    ],
)
def test_a_device_that_cannot_be_shared_out_is_refused(world, device, message, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=message), joined(world, device):
        pass


def test_processes_without_a_meeting_point_are_refused(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(ConfigError, match="2 processes meet at MASTER_ADDR, not set"), joined(World(0, 2, 0), "cpu"):
        pass


if __name__ == "__main__":
    run_as_one_of_two(Path(sys.argv[1]))
