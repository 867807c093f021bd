from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench.machine.cpu_times import CpuTimes, read_cpu_times


def write_stat(root: Path, text: str) -> None:
    (root / "proc").mkdir()
    (root / "proc" / "stat").write_text(text)


def test_others_use_what_is_neither_idle_nor_this_process() -> None:
    before, after = CpuTimes(10.0, 100.0, 5.0, 3.0), CpuTimes(12.0, 103.0, 5.5, 4.5)
    assert before.others_cores(after) == pytest.approx(1.0)  # (3 used + 0.5 stolen - 1.5 own) / 2 s
    assert before.others_cores(CpuTimes(12.0, 101.0, 5.0, 4.5)) == 0.0


def test_core_times_leave_out_idle_waiting_and_guests(tmp_path: Path) -> None:
    write_stat(tmp_path, "cpu  100 20 30 9000 700 4 6 50 11 12\ncpu0 100 20 30 9000 700 4 6 50 11 12\n")
    times = read_cpu_times(tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")
    assert times is not None
    assert (times.used_s, times.stolen_s) == pytest.approx((160 / ticks, 50 / ticks))
    assert read_cpu_times(tmp_path / "nowhere") is None


def test_others_are_counted_on_the_cores_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = ("cpu  900", "cpu0 100", "cpu1 200", "cpu10 600")
    write_stat(tmp_path, "\n".join(f"{total} 0 0 7 7 0 0 5 0 0" for total in totals))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 10})
    found, tick_s = read_cpu_times(tmp_path), 1 / os.sysconf("SC_CLK_TCK")
    assert found is not None
    assert (found.used_s, found.stolen_s) == (pytest.approx(700 * tick_s), pytest.approx(10 * tick_s))
