from __future__ import annotations

from bench.machine import memory_bytes, read_machine

INFO = "MemTotal:       8000000 kB\nMemAvailable:    500 kB\n"


def test_memory_is_read_in_bytes_and_0_where_the_field_is_missing() -> None:
    assert memory_bytes(INFO, "MemTotal") == 8_192_000_000
    assert memory_bytes(INFO, "MemAvailable") == 512_000
    assert memory_bytes("", "MemTotal") == 0


def test_the_profile_leaves_no_field_empty() -> None:
    machine = read_machine()
    assert all(text for text in (machine.cpu, machine.board, machine.power, machine.system, machine.onnxruntime))
    assert machine.memory_bytes > 1e8
