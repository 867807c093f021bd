import dataclasses
import json

import pytest
import torch

import dphr_train.throughput
from dphr_infer.errors import ConfigError, TrainingError
from dphr_train.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig, TrainConfig
from dphr_train.throughput import (
    LoopSpeed,
    PeakMemory,
    ThroughputReport,
    format_table,
    measure_throughput,
    plain_step_of,
    to_json,
)
from dphr_train.trainer import Trainer


def run_config(root, out):
    return TrainConfig(
        out=out,
        data=DataConfig(root=root, image_px=64),
        augment=AugmentConfig(0, 0, 0, 0, 0, 0, False),
        model=ModelConfig(name="test_resnet", weights="random"),
        optim=OptimConfig(batch_size=4, learning_rate=1e-3, steps=8, warmup=0),
    )


@pytest.fixture(scope="module")
def report(tiny_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "never"
    found = measure_throughput(run_config(tiny_root, out), steps=1, repeats=3, memory_batch=64, memory_chunk=8)
    assert not out.exists()
    return found


def test_chunks_take_a_fraction_of_the_memory_that_the_whole_batch_takes(report):
    memory = report.memory
    assert memory.kind == "resident memory of the process" and memory.before_bytes > 50e6
    plain, cached = memory.plain_bytes - memory.before_bytes, memory.cached_bytes - memory.before_bytes
    assert 0 <= cached < plain / 2


def test_both_loops_are_timed_as_often_as_asked(report):
    for loop in (report.ours, report.plain):
        assert len(loop.images_per_s) == len(loop.waited) == 3
        assert min(loop.images_per_s) > 0 and all(0 < share < 1 for share in loop.waited)


def test_the_report_is_json_without_the_folder_it_was_measured_in(report):
    raw = json.loads(json.dumps(to_json(report)))
    assert raw["ours"]["n"] == 3 and raw["config"]["optim"]["batch_size"] == 4 and "out" not in raw["config"]
    assert raw["memory"]["chunk_size"] == 8 and raw["environment"]["device"] == "cpu"


def test_both_loops_take_the_same_steps(tiny_root, tmp_path):
    config = run_config(tiny_root, tmp_path)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, warmup=0.0, steps=10**6))
    ours, plain = Trainer(config), Trainer(config)
    step = plain_step_of(plain)
    for batch in ours.batches(3):
        ours.train_step(batch)
        step(batch)
    for found, expected in zip(ours.parts.parameters, plain.parts.parameters, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_loops_take_turns_and_share_the_uncounted_first_block(tiny_root, tmp_path, monkeypatch):
    turns = []

    def time_block(batches, take_step, config):
        count = len(list(batches))
        turns.append((getattr(take_step, "__name__", ""), count))
        return float(len(turns)), 0.25

    monkeypatch.setattr(dphr_train.throughput, "_time_block", time_block)
    monkeypatch.setattr(dphr_train.throughput, "_peak_of_a_process", lambda *_: {"before": 1, "peak": 2})
    found = measure_throughput(run_config(tiny_root, tmp_path), steps=4, repeats=2)
    assert turns == [("train_step", 5), ("take_step", 5)] * 3
    assert found.ours.images_per_s == (3.0, 5.0) and found.plain.images_per_s == (4.0, 6.0)


def test_a_block_counts_neither_its_first_step_nor_time_in_steps_as_waiting(tiny_root, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(dphr_train.throughput, "now_s", lambda: now[0])

    def batches():
        for seconds in (50, 1, 1, 4):
            now[0] += seconds
            yield None

    def take_step(batch):
        now[0] += 2

    config = run_config(tiny_root, tmp_path)
    rate, waited = dphr_train.throughput._time_block(batches(), take_step, config)
    assert rate == 2 * 4 * 3 / 12 and waited == 6 / 12


def test_the_table_shows_medians_with_their_spread(tmp_path):
    found = ThroughputReport(
        config=run_config(tmp_path, tmp_path),
        steps=7,
        ours=LoopSpeed((100.0, 90.0, 104.0), (0.1, 0.3, 0.2)),
        plain=LoopSpeed((100.0, 100.0, 104.0), (0.1, 0.1, 0.1)),
        memory=PeakMemory(128, 16, 900_000_000, 300_000_000, 200_000_000, "resident memory of the process"),
        environment={"device_name": "x86_64", "threads": 1},
    )
    lines = format_table(found).splitlines()
    assert lines[1].endswith("median of 3 blocks of 7 steps")
    assert lines[2].split() == ["ours", "100.0", "90.0", "104.0", "20.0%"]
    assert lines[4] == "ours / plain, block by block: median 1.000, 0.900 to 1.000"
    assert "plain 900 MB, chunks of 16 300 MB, 200 MB before" in lines[5]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((0, 3), "3 repeats of 0 steps"), ((3, 0), "0 repeats of 3 steps"), ((1, 1, 8, 8), "at batch 8 in chunks of 8")],
)
def test_numbers_that_measure_nothing_are_refused(numbers, message, tiny_root, tmp_path):
    with pytest.raises(ConfigError, match=message):
        measure_throughput(run_config(tiny_root, tmp_path), *numbers)


def test_a_process_that_dies_is_reported_with_its_last_words(tmp_path, monkeypatch):
    ended = dphr_train.throughput.subprocess.CompletedProcess([], 1, stdout="", stderr="first\nout of memory\n")
    monkeypatch.setattr(dphr_train.throughput.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(TrainingError, match=r"plain steps of 128 pairs .* ended with 1 \(out of memory\)"):
        dphr_train.throughput._peak_of_a_process(run_config(tmp_path, tmp_path), "plain", 128, 16)
