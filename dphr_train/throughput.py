"""What the training loop costs on this machine: its speed beside a plain loop's, its waiting, and its peak memory."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from dphr_infer.errors import ConfigError, TrainingError
from dphr_infer.measure.clock import now_s
from dphr_infer.measure.memory import peak_bytes
from dphr_train.config import TrainConfig
from dphr_train.config_json import config_from_json, config_to_json
from dphr_train.datasets.pairs import PairBatch
from dphr_train.distributed import World
from dphr_train.run_record import describe_environment
from dphr_train.step import PairStep, TwoViews
from dphr_train.trainer import Trainer

Way = Literal["plain", "cached"]
_MEMORY_STEPS = 2  # the optimizer's moments are there from the second on


@dataclass(frozen=True, slots=True)
class LoopSpeed:
    """Timed blocks of one loop, in their order.

    Attributes:
        images_per_s: of each block, both views counted.
        waited: share of each block's time in which the loop waited for the loader. On a GPU the loop may ask for the
            next batch while the last step is still computed, so it is then an upper bound of what waiting costs.
    """

    images_per_s: tuple[float, ...]
    waited: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Peak memory of training steps in a process of their own, in bytes.

    Attributes:
        plain_bytes: of the plain loop, the whole batch at once.
        cached_bytes: of cached gradients in chunks.
        before_bytes: before the first step of the latter: libraries, network and one batch of images.
        kind: what was read.
    """

    batch_size: int
    chunk_size: int
    plain_bytes: int
    cached_bytes: int
    before_bytes: int
    kind: Literal["resident memory of the process", "memory allocated by torch on the GPU"]


@dataclass(frozen=True, slots=True, eq=False)
class ThroughputReport:
    """What measure_throughput found.

    Attributes:
        config: what was trained.
        steps: timed steps of a block.
        ours, plain: the two loops, as many blocks each; block i of one ran beside block i of the other.
        memory: beside each other, each in a process of its own.
        environment: versions, device and threads.
    """

    config: TrainConfig
    steps: int
    ours: LoopSpeed
    plain: LoopSpeed
    memory: PeakMemory
    environment: dict[str, Any]

    def ratios(self) -> list[float]:
        """Speed of our loop over that of the plain one, block by block."""
        return [ours / plain for ours, plain in zip(self.ours.images_per_s, self.plain.images_per_s, strict=True)]


def measure_throughput(
    config: TrainConfig, steps: int, repeats: int, memory_batch: int = 128, memory_chunk: int = 16
) -> ThroughputReport:
    """Time our loop and the plain one on the same network, loss and batches, in turns, and compare peak memory.

    Ours is what a run does at every step: loader, PairStep, checks, clipping, optimizer, learning rate. The plain loop
    is the textbook: encode both views, lose, differentiate, clip, step; it never encodes in chunks. One uncounted block
    of each comes first, and one uncounted step before each block. Nothing is written into config.out, and the
    sampler's lists are not refreshed, for that is no part of a step.

    Args:
        config: the run; its chunk size is ours alone, and costs a second pass through the encoder where it is set.
        steps: timed steps of a block, at least 1.
        repeats: blocks of each loop, at least 1.
        memory_batch, memory_chunk: pairs of the steps whose memory is compared, and of a chunk of them.

    Raises:
        ConfigError: a number is too small.
        DatasetError, CheckpointError, TrainingError: the run cannot start, or a step's memory cannot be measured.
    """
    if steps < 1 or repeats < 1:
        raise ConfigError(f"There are {repeats} repeats of {steps} steps to measure: give at least 1 of each.")
    if not 1 <= memory_chunk < memory_batch:
        raise ConfigError(
            f"Memory is compared at batch {memory_batch} in chunks of {memory_chunk}: give a chunk of at least 1 pair "
            "and smaller than the batch."
        )
    with tempfile.TemporaryDirectory() as out:
        config = dataclasses.replace(
            config,
            out=Path(out),
            optim=dataclasses.replace(config.optim, steps=2 * (repeats + 1) * (steps + 1)),
            sampler=dataclasses.replace(config.sampler, refresh_epochs=0),
        )
        trainer = Trainer(config)
        loops: dict[str, Callable[[PairBatch], object]] = {"ours": trainer.train_step, "plain": plain_step_of(trainer)}
        blocks: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
        for _ in range(repeats + 1):
            for name, take_step in loops.items():
                blocks[name].append(_time_block(trainer.batches(steps + 1), take_step, config))
    speeds = {name: LoopSpeed(*zip(*found[1:], strict=True)) for name, found in blocks.items()}
    return ThroughputReport(
        config=config,
        steps=steps,
        **speeds,
        memory=_compare_memory(config, memory_batch, memory_chunk),
        environment=describe_environment(config.device, 1),
    )


def plain_step_of(trainer: Trainer) -> Callable[[PairBatch], None]:
    """The textbook's optimisation step, on the network, loss and optimizer of a trainer."""
    optim, device = trainer.config.optim, torch.device(trainer.config.device)
    views = TwoViews(trainer.parts.encoder, optim.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=optim.precision == "fp16")

    def take_step(batch: PairBatch) -> None:
        queries, references, places = (tensor.to(device, non_blocking=True) for tensor in batch)
        total, _ = trainer.parts.objective(*views(queries, references), places)
        trainer.parts.optimizer.zero_grad(set_to_none=True)
        scaler.scale(total).backward()
        scaler.unscale_(trainer.parts.optimizer)
        torch.nn.utils.clip_grad_value_(trainer.parts.parameters, optim.clip_value)
        scaler.step(trainer.parts.optimizer)
        scaler.update()

    return take_step


def _time_block(
    batches: Iterable[PairBatch], take_step: Callable[[PairBatch], object], config: TrainConfig
) -> tuple[float, float]:
    """Images a second and share of waiting, of all batches but the first."""
    coming = iter(batches)
    take_step(next(coming))
    _synchronise(config.device)
    started = asked = now_s()
    waited, steps = 0.0, 0
    for batch in coming:
        waited += now_s() - asked
        take_step(batch)
        steps += 1
        asked = now_s()
    _synchronise(config.device)
    seconds = now_s() - started
    return 2 * config.optim.batch_size * steps / seconds, waited / seconds


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _compare_memory(config: TrainConfig, batch_size: int, chunk_size: int) -> PeakMemory:
    plain, cached = (_peak_of_a_process(config, way, batch_size, chunk_size) for way in ("plain", "cached"))
    on_gpu = config.device.startswith("cuda")
    return PeakMemory(
        batch_size=batch_size,
        chunk_size=chunk_size,
        plain_bytes=plain["peak"],
        cached_bytes=cached["peak"],
        before_bytes=cached["before"],
        kind="memory allocated by torch on the GPU" if on_gpu else "resident memory of the process",
    )


def _peak_of_a_process(config: TrainConfig, way: Way, batch_size: int, chunk_size: int) -> dict[str, int]:
    """{"before", "peak"} in bytes, of a fresh process: memory that was ever touched stays with the one that did."""
    task = {"config": config_to_json(config), "way": way, "batch_size": batch_size, "chunk_size": chunk_size}
    done = subprocess.run(
        [sys.executable, "-m", "dphr_train.throughput"], input=json.dumps(task), capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise TrainingError(
            f"The memory of {way} steps of {batch_size} pairs was not measured, their process ended with "
            f"{done.returncode} ({said[-1] if said else 'killed'}): give a smaller batch to compare memory at."
        )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_of_steps(config: TrainConfig, way: Way, batch_size: int, chunk_size: int) -> dict[str, int]:
    """{"before", "peak"} of this process in bytes, around a few steps; the rows of one batch are repeated to the size.

    The same rows again take the memory that others would: only the encoder's and the loss's tensors count.
    """
    data = dataclasses.replace(config.data, workers=0, cache=False)
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(dataclasses.replace(config, out=Path(out), data=data))
        (first,) = trainer.batches(1)
    rows = torch.arange(batch_size) % len(first[2])
    batch = first[0][rows], first[1][rows], first[2][rows]
    optim = dataclasses.replace(config.optim, batch_size=batch_size, chunk_size=chunk_size)
    trainer.compute = PairStep(trainer.parts.encoder, trainer.parts.objective, optim, World(), trainer.parts.scaler)
    take_step = trainer.train_step if way == "cached" else plain_step_of(trainer)
    before = _peak_bytes(config.device)
    for _ in range(_MEMORY_STEPS):
        take_step(batch)
    return {"before": before, "peak": _peak_bytes(config.device)}


def _peak_bytes(device: str) -> int:
    """Peak memory of this process so far.

    Raises:
        TrainingError: the system does not tell it.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    peak = peak_bytes()
    if peak is None:
        raise TrainingError("This system does not tell how much memory a process took: Linux does.")
    return peak


def to_json(report: ThroughputReport) -> dict[str, Any]:
    """The report as plain JSON values."""

    def speed(loop: LoopSpeed) -> dict[str, Any]:
        return {
            "n": len(loop.images_per_s),
            "median_images_per_s": median(loop.images_per_s),
            "median_waited": median(loop.waited),
            "images_per_s": list(loop.images_per_s),
            "waited": list(loop.waited),
        }

    config = {name: value for name, value in config_to_json(report.config).items() if name != "out"}
    return {
        "config": config,
        "steps": report.steps,
        "ours": speed(report.ours),
        "plain": speed(report.plain),
        "median_ratio": median(report.ratios()),
        "memory": dataclasses.asdict(report.memory),
        "environment": report.environment,
    }


def format_table(report: ThroughputReport) -> str:
    """The report for people: each figure with its n and spread."""
    config, memory, ratios = report.config, report.memory, report.ratios()
    lines = [
        f"{config.model.name} {config.data.image_px} px, batch {config.optim.batch_size}, chunk "
        f"{config.optim.chunk_size}, {config.optim.precision}, {config.data.workers} workers, "
        f"{report.environment['device_name']} with {report.environment['threads']} threads",
        f"{'loop':<8}{'images/s':>10}{'min':>10}{'max':>10}{'waited':>9}   median of {len(ratios)} blocks of "
        f"{report.steps} steps",
    ]
    for name, loop in (("ours", report.ours), ("plain", report.plain)):
        values = loop.images_per_s
        lines.append(
            f"{name:<8}{median(values):>10.1f}{min(values):>10.1f}{max(values):>10.1f}{median(loop.waited):>9.1%}"
        )
    lines += [
        f"ours / plain, block by block: median {median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}",
        f"Peak at batch {memory.batch_size}: plain {memory.plain_bytes / 1e6:.0f} MB, chunks of {memory.chunk_size} "
        f"{memory.cached_bytes / 1e6:.0f} MB, {memory.before_bytes / 1e6:.0f} MB before the first step ({memory.kind})",
    ]
    return "\n".join(lines)


def _measure_this_process() -> None:
    task = json.load(sys.stdin)
    config = config_from_json(task["config"])
    print(json.dumps(peak_of_steps(config, task["way"], task["batch_size"], task["chunk_size"])))


if __name__ == "__main__":
    _measure_this_process()
