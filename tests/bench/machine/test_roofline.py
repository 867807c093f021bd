from __future__ import annotations

import dataclasses
import sys

import pytest

from bench.machine import roofline
from bench.machine.roofline import buffer_bytes, limit_ms, measure_ceiling, measure_matmul_rate, measure_read_bandwidth
from dphr_infer.measure.machine import Machine


def test_the_buffer_is_three_caches_but_at_most_a_quarter_of_the_free_memory() -> None:
    assert buffer_bytes(1_000_000, 16 << 30) == 1 << 30
    assert buffer_bytes(1 << 30, 64 << 30) == 3 << 30
    assert buffer_bytes(1 << 30, 2 << 30) == 1 << 29


def test_the_limit_is_bytes_over_bandwidth() -> None:
    assert limit_ms(512_000_000, 20e9) == pytest.approx(25.6)


def test_the_measured_bandwidth_is_of_a_real_memory(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_BUFFER_BYTES", 64 << 20)
    bandwidth = measure_read_bandwidth(dataclasses.replace(machine, last_level_cache_bytes=0))
    assert 1e8 < bandwidth < 1e13


def test_products_of_fewer_threads_are_measured_by_a_blas_that_was_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (sys.executable, "-c", "import os; print(os.environ['OPENBLAS_NUM_THREADS'] * 2)")
    monkeypatch.setattr(roofline, "own_code", lambda module, function: asked)
    assert measure_matmul_rate(3) == 33
    monkeypatch.undo()
    assert 1e7 < measure_matmul_rate(1) < 1e13


def test_as_many_threads_as_cores_are_all_of_them(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(roofline, "measure_read_bandwidth", lambda machine, threads: asked.append(threads) or 1.0)
    monkeypatch.setattr(roofline, "measure_matmul_rate", lambda threads: asked.append(threads) or 2.0)
    for threads in (0, 1, 2, 3):
        assert measure_ceiling(machine, threads) == roofline.Ceiling(1.0, 2.0)
    assert asked == [0, 0, 1, 1, 0, 0, 0, 0]


def test_one_thread_reads_in_one_piece(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_BUFFER_BYTES", 1 << 20)
    pieces = []
    monkeypatch.setattr(roofline.np, "array_split", lambda array, parts: pieces.append(parts) or [array])
    measure_read_bandwidth(dataclasses.replace(machine, last_level_cache_bytes=0, cores=8), 1)
    assert set(pieces) == {1}
