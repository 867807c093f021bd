import io
import subprocess
import sys
from pathlib import Path

import pytest

from dphr_infer.errors import ConfigError, MissingPackageError
from dphr_infer.terminal import Progress, format_duration, printable, run_command, track


def fail(error: BaseException):
    def command() -> None:
        raise error

    return command


def test_an_error_of_ours_is_one_line_and_exit_code_2(capsys) -> None:
    assert run_command("prog", fail(ConfigError("both numbers"))) == 2
    assert capsys.readouterr().err == "prog: both numbers\n"
    assert run_command("prog", fail(MissingPackageError("x", "map", "Reading"))) == 2
    assert "pip install 'dphr[map]'" in capsys.readouterr().err


def test_an_interrupt_is_130_and_success_is_0() -> None:
    assert run_command("prog", fail(KeyboardInterrupt())) == 130
    assert run_command("prog", lambda: None) == 0


def test_any_other_exception_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command("prog", fail(ZeroDivisionError()))


@pytest.mark.parametrize(("seconds", "text"), [(7.2, "0:07"), (125, "2:05"), (3725, "1:02:05"), (59.6, "1:00")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_log_gets_one_last_line_with_count_and_share() -> None:
    log = io.StringIO()
    with Progress("tiles", 4, "tiles", log) as progress:
        progress.advance(3)
        progress.advance(text="loss 1.0")
    assert log.getvalue().startswith("tiles 4/4 (100%)") and log.getvalue().endswith("loss 1.0\n")
    assert log.getvalue().count("\n") == 1


def test_track_gives_the_items_on(capsys) -> None:
    assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    assert "letters 3/3" in capsys.readouterr().err


def test_a_full_stdout_is_one_line_and_exit_code_2() -> None:
    code = "import sys; from dphr_infer.terminal import run_command; sys.exit(run_command('prog', lambda: print('x')))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "prog: the output could not be written: No space left on device. Free some space.\n"


def test_a_name_with_a_line_end_or_a_byte_that_is_no_text_stays_on_one_line() -> None:
    assert printable("a\nb\udcffé") == "a\\nb\\udcffé"


def test_a_lack_of_permission_is_one_line(capsys):
    def forbidden():
        raise PermissionError(13, "Permission denied", "maps/secret.tif")

    assert run_command("dphr", forbidden) == 2
    assert capsys.readouterr().err == (
        "dphr: maps/secret.tif may not be read or written by this user: change its permissions.\n"
    )
