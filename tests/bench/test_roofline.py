from __future__ import annotations

import dataclasses

import pytest

from bench import roofline
from bench.machine import MachineProfile
from bench.roofline import buffer_bytes, limit_ms, measure_read_bandwidth


def test_the_buffer_is_three_caches_but_at_most_a_quarter_of_the_free_memory() -> None:
    assert buffer_bytes(1_000_000, 16 << 30) == 1 << 30
    assert buffer_bytes(1 << 30, 64 << 30) == 3 << 30
    assert buffer_bytes(1 << 30, 2 << 30) == 1 << 29


def test_the_limit_is_bytes_over_bandwidth() -> None:
    assert limit_ms(512_000_000, 20e9) == pytest.approx(25.6)


def test_the_measured_bandwidth_is_of_a_real_memory(machine: MachineProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_BUFFER_BYTES", 64 << 20)
    bandwidth = measure_read_bandwidth(dataclasses.replace(machine, last_level_cache_bytes=0))
    assert 1e8 < bandwidth < 1e13
