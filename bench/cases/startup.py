"""From the start of the process to the first position: `dphr-infer locate` itself, with one photo, again and again."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine.program import own_code
from dphr_infer.errors import EngineError
from dphr_infer.measure.clock import now_ms
from dphr_infer.measure.memory import peak_bytes
from dphr_infer.measure.stats import percentile, summarise

PROGRAM = (*own_code("dphr_infer.cli.main", "main"), "locate")


@dataclass(frozen=True, slots=True)
class Start:
    """One process: until its first line, until its end, and its most resident memory until the first."""

    position_ms: float
    exit_ms: float
    peak_bytes: int | None


def forget_files(paths: Sequence[Path]) -> None:
    """Ask the system to drop the files' pages from its cache, where it can be asked."""
    if hasattr(os, "posix_fadvise"):
        for path in paths:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start_once(arguments: Sequence[str]) -> Start:
    """Run `dphr-infer locate` once.

    Raises:
        EngineError: it failed; its own words are in the message.
    """
    with tempfile.TemporaryFile() as errors:
        start_ms = now_ms()
        process = subprocess.Popen((*PROGRAM, *arguments), stdout=subprocess.PIPE, stderr=errors)
        with process:
            output = process.stdout
            first = output.read(1) if output is not None else b""
            position_ms = now_ms() - start_ms
            peak = peak_bytes(process.pid)
            if output is not None:
                output.read()
            process.wait()
            exit_ms = now_ms() - start_ms
        if process.returncode or not first:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise EngineError(f"dphr-infer locate ended with exit code {process.returncode}: {said[-1]}")
    return Start(position_ms, exit_ms, peak)


def measure_startup(arguments: Sequence[str], files: Sequence[Path], times: int) -> dict[str, Any]:
    """Start `dphr-infer locate` once cold and then `times` times warm.

    Cold means that `files` (bundle, gallery, photo) were dropped from the system's file cache first; the interpreter's
    and the packages' own files were not.

    Returns:
        {"cold", "warm": LatencySummary, "samples_ms", "exit_p50", "peak_memory_bytes"}; "cold" and "samples_ms" are
        until the position is printed, "exit_p50" until the process has ended. "peak_memory_bytes" is until the position
        is printed; None where the system does not tell.

    Raises:
        EngineError: a start failed.
    """
    forget_files(files)
    cold = start_once(arguments)
    warm = [start_once(arguments) for _ in range(times)]
    samples = np.array([start.position_ms for start in warm])
    return {
        "cold": cold.position_ms,
        "warm": asdict(summarise(samples)),
        "samples_ms": np.round(samples, 2).tolist(),
        "exit_p50": percentile(np.array([start.exit_ms for start in warm]), 50),
        "peak_memory_bytes": max((start.peak_bytes for start in (cold, *warm) if start.peak_bytes), default=None),
    }
