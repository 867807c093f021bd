import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dphr_infer.errors import ConfigError
from dphr_train import cli
from dphr_train.commands import COMMANDS
from dphr_train.run_log import read_metrics
from dphr_train.run_record import read_record

DPHR_TRAIN = Path(sys.executable).parent / "dphr-train"
SMALL = "--data.image-px 32 --model.name test_resnet --model.weights random --optim.batch-size 4 --optim.steps 2"


def run(monkeypatch, *arguments):
    """Exit code of the command, in this process."""
    monkeypatch.setattr(sys, "argv", ["dphr-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.fixture(scope="module")
def two_runs(tiny_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        with pytest.MonkeyPatch.context() as patch:
            where = ("--out", folder / str(seed), "--data.root", tiny_root, "--seed", seed)
            assert run(patch, "fit", *where, *SMALL.split()) in (0, None)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_help(name, monkeypatch, capsys):
    assert cli.COMMANDS.keys() == COMMANDS.keys()
    assert run(monkeypatch, name, "--help") in (0, None)
    assert capsys.readouterr().out.startswith(f"usage: dphr-train {name}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "--out", "x"], (None, ["fit", "--out", "x"])),
        (["--preset", "a", "--out", "x"], ("a", ["--out", "x"])),
        (["fit", "--out", "x", "--preset=a"], ("a", ["--out", "x"])),
        (["fit", "--preset", "a"], ("a", [])),
    ],
)
def test_a_preset_is_taken_out_of_the_arguments_wherever_it_stands(arguments, expected):
    assert cli.take_preset(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset"], "needs a name"),
        (["--preset", "--out"], "needs a name"),
        (["evaluate", "--preset", "a"], "not to evaluate"),
    ],
)
def test_a_preset_that_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        cli.take_preset(arguments)


def test_a_preset_whose_weights_are_not_there_says_how_to_get_them(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "--preset", "dphr-sues200-150", "--device", "cpu") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "convnext_base" in error


def test_options_change_a_preset_and_the_rest_stays_published(monkeypatch, tmp_path, tiny_root, capsys):
    changes = f"--out {tmp_path / 'run'} --device cpu --data.root {tiny_root} --optim.precision fp32 {SMALL}"
    assert run(monkeypatch, "--preset", "sample4geo-university1652", *changes.split()) == 0
    config = read_record(tmp_path / "run").config
    assert config.optim.steps == 2 and config.model.name == "test_resnet"
    assert config.optim.clip_value == 100 and config.augment.jpeg == 0.5 and not config.loss.dphr.triplet


def test_every_preset_is_listed(monkeypatch, capsys):
    assert run(monkeypatch, "presets") in (0, None)
    listed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("dphr-university1652") for line in listed) and len(listed) >= 14


def test_runs_of_two_seeds_are_compared_in_one_line_and_drawn(monkeypatch, two_runs, tmp_path, capsys):
    plot = tmp_path / "plot.png"
    assert run(monkeypatch, "compare", two_runs / "0", two_runs / "1", "--plot", plot) in (0, None)
    header, _, line = capsys.readouterr().out.splitlines()
    assert "drone->satellite R@1" in header and "| 2 |" in line and "±" in line
    with Image.open(plot) as picture:
        assert picture.format == "PNG"


def test_runs_are_compared_on_another_test_set(monkeypatch, two_runs, tiny_root, capsys):
    where = ("--data", tiny_root, "--dataset", "university1652")
    assert run(monkeypatch, "compare", two_runs / "0", two_runs / "1", *where) in (0, None)
    elsewhere = capsys.readouterr().out
    assert run(monkeypatch, "compare", two_runs / "0", two_runs / "1") in (0, None)
    assert capsys.readouterr().out == elsewhere  # the tiny set is also the one they were evaluated on


def test_checking_an_incomplete_set_prints_the_counts_and_fails(monkeypatch, tiny_root, capsys):
    assert run(monkeypatch, "check", "university1652", tiny_root, "--own") in (0, None)
    assert capsys.readouterr().out.endswith("0 missing, 0 unreadable.\n\n")
    assert run(monkeypatch, "check", "university1652", tiny_root) == 2
    out, error = capsys.readouterr()
    assert "official" in out and "not the official university1652" in error


def test_two_processes_train_as_one_and_leave_one_record(monkeypatch, tiny_root, tmp_path, capsys):
    # test_convnext has layer normalisation, so that shares of a batch give the joint batch's gradient.
    common = f"--data.root {tiny_root} {SMALL} --model.name test_convnext --checkpoint-every 1".split()
    both = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    assert run(monkeypatch, "fit", "--out", tmp_path / "one", *common) in (0, None)
    subprocess.run([*both, DPHR_TRAIN, "fit", "--out", tmp_path / "two", *common], check=True, capture_output=True)
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert json.loads((tmp_path / "two/run.json").read_text())["environment"]["processes"] == 2
    assert run(monkeypatch, "fit", "--out", tmp_path / "two", *common, "--resume") == 2
    assert "made by 2 processes, this is 1" in capsys.readouterr().err
