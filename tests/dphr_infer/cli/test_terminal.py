import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dphr_infer.cli.terminal import Terminated, choose_command, raised_termination, run_command
from dphr_infer.errors import ConfigError, MissingPackageError, printable
from dphr_infer.measure.progress import Progress, format_duration, progress_shown, track


def fail(error: BaseException):
    def command() -> None:
        raise error

    return command


def test_an_error_of_ours_is_one_line_and_exit_code_2(capsys) -> None:
    assert run_command("prog", fail(ConfigError("both numbers"))) == 2
    assert capsys.readouterr().err == "prog: both numbers\n"
    assert run_command("prog", fail(MissingPackageError("x", "map", "Reading"))) == 2
    assert "pip install 'dphr[map]'" in capsys.readouterr().err


COMMANDS = {"evaluate": "measure recall", "make-key": "make a key"}


@pytest.mark.parametrize("words", [[], ["--help"], ["-h", "evaluate"]])
def test_the_commands_are_listed_each_on_a_line(words: list[str], capsys) -> None:
    assert choose_command("prog", "What it is for.", COMMANDS, words) is None
    usage, _, about, _, _, first, second, _, last = capsys.readouterr().out.splitlines()
    assert (usage, about) == ("usage: prog COMMAND [OPTIONS]", "What it is for.")
    assert (first, second) == ("  evaluate  measure recall", "  make-key  make a key")
    assert last == "prog COMMAND --help lists what a command takes."


def test_a_command_is_chosen_by_its_name_and_an_unknown_one_is_refused_with_a_near_one() -> None:
    assert choose_command("prog", "", COMMANDS, ["evaluate", "--help"]) == "evaluate"
    assert choose_command("prog", "", COMMANDS, ["make_key"]) == "make-key"
    with pytest.raises(ConfigError, match="no command 'evalute': choose one of evaluate\\."):
        choose_command("prog", "", COMMANDS, ["evalute", "x"])
    with pytest.raises(ConfigError, match="no command 'x': choose one of evaluate, make-key\\."):
        choose_command("prog", "", COMMANDS, ["x"])


def test_an_interrupt_is_130_and_success_is_0() -> None:
    assert run_command("prog", fail(KeyboardInterrupt())) == 130
    assert run_command("prog", lambda: None) == 0


def test_a_message_about_a_file_with_a_strange_name_is_one_line(capsys) -> None:
    assert run_command("prog", fail(ConfigError("a\nb\x1b[2J\udcff.png is missing"))) == 2
    assert capsys.readouterr().err == "prog: a\\nb\\x1b[2J\\udcff.png is missing\n"


def test_sigterm_cleans_up_is_143_and_one_line_and_the_handler_is_restored(capsys) -> None:
    steps: list[str] = []

    def command() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            steps.append("went on")
        finally:
            signal.raise_signal(signal.SIGTERM)  # a second one must not cut the cleaning up short
            steps.append("cleaned up")

    before = signal.getsignal(signal.SIGTERM)
    assert run_command("prog", command) == 143
    assert steps == ["cleaned up"]
    assert capsys.readouterr().err == "prog: terminated\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_who_ignores_sigterm_or_is_no_main_thread_keeps_that() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run_command("prog", lambda: signal.raise_signal(signal.SIGTERM)) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_command("prog", lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_forked_child_dies_of_sigterm_itself() -> None:
    with raised_termination():
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
            except Terminated:
                os._exit(1)
            os._exit(2)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM


def test_a_process_that_is_terminated_leaves_no_half_output(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from dphr_infer.files.atomic import atomic_file, atomic_folder
from dphr_infer.cli.terminal import run_command

def main():
    with atomic_folder(Path({str(tmp_path / "new/folder")!r})) as folder, atomic_file(folder / "file") as file:
        print("ready", flush=True)
        time.sleep(60)

sys.exit(run_command("prog", main))
"""
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    assert len(list((tmp_path / "new").iterdir())) == 1
    started.terminate()
    assert started.communicate(timeout=20) == ("", "prog: terminated\n")
    assert started.returncode == 143
    assert list(tmp_path.iterdir()) == []


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


def test_track_gives_the_items_on_and_is_silent_unless_progress_is_shown(capsys, caplog) -> None:
    with caplog.at_level("INFO", "dphr_infer"):
        assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    assert "letters 3/3" in caplog.text and capsys.readouterr().err == ""
    with progress_shown():
        assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    assert "letters 3/3" in capsys.readouterr().err


def test_a_full_stdout_is_one_line_and_exit_code_2() -> None:
    code = (
        "import sys; from dphr_infer.cli.terminal import run_command as run; sys.exit(run('prog', lambda: print('x')))"
    )
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
