import sys
from pathlib import Path

import pytest

from dphr_infer.errors import DphrError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "demo"))
from demo import Demo, Step, all_steps


def writing(path: Path, text: str, log: Path) -> tuple[str, ...]:
    """A command that notes its arguments in `log` and writes `text` to `path`."""
    code = "import sys; open(sys.argv[1], 'a').write(sys.argv[3] + ' '.join(sys.argv[4:]) + '\\n'); "
    code += "open(sys.argv[2], 'w').write(sys.argv[3])"
    return (sys.executable, "-c", code, str(log), str(path), text)


def two_steps(out: Path, text: str = "a") -> list[Step]:
    log = out / "log"
    return [
        Step("first", "First", writing(out / "one", text, log), (out / "one",)),
        Step("second", "Second", writing(out / "two", "b", log), (out / "two",), ("first",)),
        Step("other", "Other", writing(out / "three", "c", log), (out / "three",)),
    ]


def test_a_second_run_does_nothing(tmp_path):
    for _ in range(2):
        Demo(tmp_path, two_steps(tmp_path)).run(None)
    assert (tmp_path / "log").read_text().split() == ["a", "b", "c"]


def test_a_changed_command_runs_again_with_all_that_stands_on_it(tmp_path):
    Demo(tmp_path, two_steps(tmp_path)).run(None)
    Demo(tmp_path, two_steps(tmp_path, text="A")).run(None)
    assert (tmp_path / "log").read_text().split() == ["a", "b", "c", "A", "b"]


def test_a_missing_result_is_made_again(tmp_path):
    Demo(tmp_path, two_steps(tmp_path)).run(None)
    (tmp_path / "three").unlink()
    Demo(tmp_path, two_steps(tmp_path)).run(None)
    assert (tmp_path / "log").read_text().split() == ["a", "b", "c", "c"]


def test_only_runs_a_step_and_what_it_needs(tmp_path):
    Demo(tmp_path, two_steps(tmp_path)).run("second")
    assert (tmp_path / "log").read_text().split() == ["a", "b"]
    with pytest.raises(DphrError, match="no step 'third'; its steps are first, second, other"):
        Demo(tmp_path, two_steps(tmp_path)).run("third")


def test_a_failing_step_is_named_and_an_interrupted_one_is_resumed(tmp_path):
    log, made = tmp_path / "log", tmp_path / "made"
    code = "import sys; open(sys.argv[1], 'a').write(' '.join(sys.argv[3:]) + '|'); open(sys.argv[2], 'a').close(); "
    code += "sys.exit(0 if '--resume' in sys.argv else 3)"
    steps = [Step("train", "Train", (sys.executable, "-c", code, str(log), str(made)), (made,), resume=("--resume",))]
    with pytest.raises(DphrError, match="step train ended with exit code 3"):
        Demo(tmp_path, steps).run(None)
    Demo(tmp_path, steps).run(None)
    assert log.read_text() == "|--resume|"


def test_every_step_reads_only_what_a_step_before_it_makes(tmp_path):
    made: dict[str, set[str]] = {}
    for step in all_steps(tmp_path):
        assert set(step.needs) <= made.keys(), step.name
        before = {str(path) for path in made_before(made, step)}
        read = {
            part
            for part in step.command
            if part.startswith(str(tmp_path)) and not any(part.startswith(str(path)) for path in step.makes)
        }
        assert all(any(part.startswith(path) for path in before) for part in read), (step.name, read, before)
        made[step.name] = {str(path) for path in step.makes} | before


def made_before(made: dict[str, set[str]], step: Step) -> set[str]:
    """All that the steps before `step` have made and it may read."""
    return set().union(*(made[name] for name in step.needs)) if step.needs else set()
