from __future__ import annotations

from pathlib import Path

import pytest

from dphr_infer.measure import memory
from dphr_infer.measure.memory import available_bytes, kilobytes, peak_bytes, reset_peak

INFO = "MemTotal:       8000000 kB\nMemAvailable:    500 kB\n"


def test_a_field_of_proc_is_read_in_bytes_and_none_where_it_is_missing() -> None:
    assert kilobytes(INFO, "MemTotal") == 8_192_000_000
    assert kilobytes(INFO, "MemAvailable") == 512_000
    assert kilobytes("", "MemTotal") is None


def test_available_memory_is_what_linux_says_and_none_where_nothing_tells(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "_MEMORY_INFO", tmp_path / "meminfo")
    assert available_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal:       8000000 kB\n")
    assert available_bytes() is None
    (tmp_path / "meminfo").write_text(INFO)
    assert available_bytes() == 512_000


def test_a_process_that_is_gone_has_no_peak() -> None:
    assert peak_bytes(2**22 + 1) is None


def test_the_peak_of_memory_is_forgotten_and_grows_by_what_is_touched() -> None:
    if not reset_peak():
        pytest.skip("this system does not forget the peak of a process")
    before = peak_bytes()
    assert before is not None
    taken = bytearray(b"x" * 80_000_000)
    during = peak_bytes()
    assert during is not None and during - before > 70_000_000
    del taken
    assert reset_peak()
    after = peak_bytes()
    assert after is not None and after < during - 60_000_000
