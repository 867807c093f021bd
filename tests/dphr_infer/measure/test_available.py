from pathlib import Path

from dphr_infer.measure.available import available_memory_bytes


def test_available_memory_is_what_linux_says_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       8000000 kB\nMemAvailable:    500 kB\n")
    assert available_memory_bytes(tmp_path / "meminfo") == 512_000


def test_a_system_that_does_not_say_gives_none(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       8000000 kB\n")
    assert available_memory_bytes(tmp_path / "meminfo") is None
    assert available_memory_bytes(tmp_path / "missing") is None
