import dataclasses
import json
import math
import shutil

import pytest
import torch

from dphr_infer.errors import CheckpointError, ConfigError, ImageError, TrainingError
from dphr_train.checkpoint import load_encoder, read_checkpoint, write_checkpoint
from dphr_train.config import (
    AugmentConfig,
    DataConfig,
    DphrConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SamplerConfig,
    TrainConfig,
)
from dphr_train.run_log import read_metrics
from dphr_train.run_record import read_record
from dphr_train.schedule import CollapseWatch, learning_rate_at
from dphr_train.trainer import Trainer, _step_seed


def run_config(root, out, steps=6, **changes):
    config = TrainConfig(
        out=out,
        checkpoint_every=3,
        data=DataConfig(root=root, image_px=32),
        model=ModelConfig(name="test_resnet", weights="random", drop_path=0.1),
        loss=LossConfig(dphr=DphrConfig(window=2, beta=0.5)),
        optim=OptimConfig(batch_size=4, steps=steps, learning_rate=2e-3),
    )
    return dataclasses.replace(config, **changes)


def losses(out):
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole_run(tiny_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    metrics = Trainer(run_config(tiny_root, out)).run()
    return out, metrics


class Interrupted(Exception):
    pass


def run_until(config, steps, change=lambda trainer: trainer):
    """Run and be interrupted before step number `steps`."""
    trainer = change(Trainer(config))
    train_step = trainer.train_step

    def interrupted(batch):
        if trainer.state.step == steps:
            raise Interrupted
        return train_step(batch)

    trainer.train_step = interrupted
    with pytest.raises(Interrupted):
        trainer.run()


def test_a_resumed_run_has_exactly_the_same_next_losses(whole_run, tiny_root, tmp_path):
    out = tmp_path / "split"
    run_until(run_config(tiny_root, out), 4)
    assert read_checkpoint(out / "last.safetensors").step == 3
    Trainer(run_config(tiny_root, out), resume=True).run()
    assert losses(out) == losses(whole_run[0])
    one, two = (read_checkpoint(run / "last.safetensors") for run in (out, whole_run[0]))
    assert all(torch.equal(one.encoder[name], two.encoder[name]) for name in two.encoder)
    assert all(torch.equal(one.objective[name], two.objective[name]) for name in two.objective)
    assert "dphr.palw.balance" in two.objective and one.step == two.step == 6


def test_a_run_on_similarity_lists_resumes_exactly_in_the_middle_of_an_epoch(tiny_root, tmp_path):
    # 18 pairs of 6 places in batches of 4: 4 batches an epoch. Lists are made anew before epochs 1 and 2.
    sampler = SamplerConfig("hard", start="random", refresh_epochs=1, select=2, range=3)
    whole, *splits = (
        run_config(tiny_root, tmp_path / name, 10, sampler=sampler, checkpoint_every=1) for name in ("whole", "7", "5")
    )
    Trainer(whole).run()
    for split, stop in zip(splits, (7, 5), strict=True):
        run_until(split, stop)
        stopped = read_checkpoint(split.out / "last.safetensors")
        assert stopped.neighbours is not None and stopped.neighbours.shape == (6, 3)
        assert (stopped.step, stopped.epoch) == (stop, 1)
        Trainer(split, resume=True).run()
        assert losses(split.out) == losses(whole.out)


def test_lists_come_from_the_embedding_of_the_first_pair_of_each_place(tiny_root, tmp_path):
    sampler = SamplerConfig("hard", start="random", refresh_epochs=1, select=2, range=2)
    trainer = Trainer(run_config(tiny_root, tmp_path / "run", sampler=sampler))
    trainer.run()
    lists = trainer.parts.sampler.neighbours
    assert lists.shape == (6, 2)
    assert all(place not in row for place, row in enumerate(lists.tolist()))


def test_resuming_with_another_number_of_processes_is_refused_with_both(whole_run, tiny_root, tmp_path):
    out = shutil.copytree(whole_run[0], tmp_path / "run")
    config = run_config(tiny_root, out)
    path = out / "last.safetensors"
    write_checkpoint(path, dataclasses.replace(read_checkpoint(path), processes=4))
    with pytest.raises(ConfigError, match=r"made by 4 processes, this is 1: .*torchrun --nproc-per-node=4"):
        Trainer(config, resume=True)


def copy_without(root, out, place):
    """A copy of the set that lacks a training place."""
    shutil.copytree(root, out)
    for view in ("drone", "satellite"):
        shutil.rmtree(out / "train" / view / f"{place:04d}")
    return out


def test_resuming_on_other_data_is_refused_and_on_the_same_data_elsewhere_is_not(whole_run, tiny_root, tmp_path):
    out = shutil.copytree(whole_run[0], tmp_path / "run")
    with pytest.raises(ConfigError, match=r"began on images with the listing .* \(60 images\)"):
        Trainer(run_config(copy_without(tiny_root, tmp_path / "less", 5), out), resume=True)
    moved = shutil.copytree(tiny_root, tmp_path / "moved")
    assert Trainer(run_config(moved, out), resume=True).state.step == 6


def test_a_test_image_that_cannot_be_read_costs_no_training(tiny_root, tmp_path):
    root = shutil.copytree(tiny_root, tmp_path / "set")
    image = root / "test/query_drone/0007/image-02.jpeg"
    whole = image.read_bytes()
    image.write_bytes(b"no jpeg at all".ljust(len(whole)))  # the listing's sizes stay
    config = run_config(root, tmp_path / "run")
    with pytest.raises(ImageError, match="image-02"):
        Trainer(config).run()
    assert read_checkpoint(config.out / "last.safetensors").step == 6
    image.write_bytes(whole)
    assert "6" in Trainer(config, resume=True).run()["evaluations"]


def test_no_evaluation_is_lost_where_a_run_was_interrupted(tiny_root, tmp_path):
    whole, split = (
        run_config(tiny_root, tmp_path / name, steps=5, checkpoint_every=2, evaluate_every=2)
        for name in ("whole", "split")
    )
    expected = Trainer(whole).run()["evaluations"]
    run_until(split, 3)
    trainer = Trainer(split, resume=True)
    trainer.state.metrics.pop("evaluations")  # as if it had been killed between its checkpoint and its evaluation
    found = trainer.run()["evaluations"]
    assert list(expected) == list(found) == ["2", "4", "5"]
    assert found == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_training_image_is_one_line_from_any_worker(workers, tiny_root, tmp_path):
    root = shutil.copytree(tiny_root, tmp_path / "set")
    for image in (root / "train/drone").rglob("*.jpeg"):
        image.write_bytes(b"no jpeg")
    config = run_config(root, tmp_path / "run")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
    with pytest.raises(ImageError, match=r"^[^\n]*is not a picture[^\n]*$"):
        Trainer(config).run()


def test_weights_that_are_not_finite_are_never_written(tiny_root, tmp_path):
    trainer = Trainer(run_config(tiny_root, tmp_path / "run", steps=4, checkpoint_every=2))
    trainer.train_step(next(iter(trainer.batches(1))))
    with torch.no_grad():
        trainer.parts.parameters[0].fill_(math.inf)
    with pytest.raises(TrainingError, match=r"Weights are not finite after step 1 of 4\. No checkpoint has been"):
        trainer.save()
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_each_step_seeds_its_own_random_choices_and_each_process_others():
    seeds = {_step_seed(seed, step, rank) for seed in range(3) for step in range(3) for rank in range(3)}
    assert len(seeds) == 27


def test_every_term_is_logged_each_step(whole_run):
    lines = read_metrics(whole_run[0] / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(6))
    names = {"loss", "infonce", "triplet", "weighted_triplet", "lambda", "alpha", "mean_weight", "learning_rate"}
    assert all(names <= line.keys() for line in lines)
    assert lines[0]["loss"] == pytest.approx(lines[0]["infonce"] + lines[0]["triplet"])


def test_a_run_leaves_its_config_curves_and_tensorboard_events(whole_run):
    out, metrics = whole_run
    assert json.loads((out / "config.json").read_text())["optim"]["batch_size"] == 4
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((out / "tensorboard").glob("events*"))
    report = metrics["evaluations"]["6"]["drone->satellite"]
    assert report["full"]["n_gallery"] == 6 and report["matched"]["n_gallery"] == 4
    record = read_record(out)
    assert record.evaluation() == metrics["evaluations"]["6"]
    assert record.steps == 6 and record.seconds > 0 and record.data["images"] == 64


def test_training_teaches_the_tiny_set(tiny_root, tmp_path):
    config = run_config(tiny_root, tmp_path / "learn", steps=80, augment=AugmentConfig(0, 0, 0, 0, 0, 0, False))
    Trainer(config).run()
    values = losses(tmp_path / "learn")
    assert sum(values[-10:]) / 10 < 0.8 * sum(values[:10]) / 10


def test_the_checkpoint_gives_back_the_trained_encoder(whole_run):
    encoder, preprocess = load_encoder(whole_run[0] / "last.safetensors")
    assert (preprocess.height_px, preprocess.width_px) == (32, 32)
    assert not encoder.training
    out = encoder(torch.zeros(1, 3, 32, 32))
    assert out.shape == (1, encoder.dim) and torch.isfinite(out).all()


def test_a_damaged_checkpoint_is_refused(whole_run, tmp_path):
    whole = (whole_run[0] / "last.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_encoder(tmp_path / "cut.safetensors")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tiny_root, tmp_path):
    trainer = Trainer(run_config(tiny_root, tmp_path / "nan"))
    parts = trainer.parts.encoder.parts
    trainer.parts.encoder.parts = lambda images: parts(images) * (math.nan if trainer.state.step == 4 else 1.0)
    with pytest.raises(TrainingError, match=r"nan at step 4 of 6"):
        trainer.run()
    checkpoint = read_checkpoint(tmp_path / "nan" / "last.safetensors")
    assert checkpoint.step == 3


def test_resuming_under_another_setting_is_refused_by_name(whole_run, tiny_root, tmp_path):
    out = shutil.copytree(whole_run[0], tmp_path / "run")
    config = run_config(tiny_root, out)
    changed = dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=0.5))
    with pytest.raises(ConfigError, match=r"optim.learning_rate is 0.5, the checkpoint has 0.002"):
        Trainer(changed, resume=True)


def test_a_second_run_in_the_same_folder_is_refused(whole_run, tiny_root):
    with pytest.raises(ConfigError, match="--resume"):
        Trainer(run_config(tiny_root, whole_run[0]))


def test_fp16_without_cuda_is_refused(tiny_root, tmp_path):
    optim = OptimConfig(batch_size=4, precision="fp16")
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        Trainer(run_config(tiny_root, tmp_path, optim=optim))


def test_bf16_trains(tiny_root, tmp_path):
    optim = OptimConfig(batch_size=4, steps=2, precision="bf16")
    Trainer(run_config(tiny_root, tmp_path / "bf16", optim=optim)).run()
    assert all(math.isfinite(value) for value in losses(tmp_path / "bf16"))


def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine():
    rates = [learning_rate_at(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0) and rates[55] == pytest.approx(0.5)
    assert rates[99] < 1e-3


def test_collapse_is_noticed_after_fifty_steps_at_the_logarithm_of_the_batch():
    stuck, learning, high = CollapseWatch(16), CollapseWatch(16), CollapseWatch(16)
    assert [stuck.update(math.log(16) - 0.01) for _ in range(50)] == [False] * 49 + [True]
    assert stuck.mean == pytest.approx(math.log(16) - 0.01)
    assert not any(learning.update(math.log(16) * (1 - step / 200)) for step in range(100))
    assert not any(high.update(1.2 * math.log(16)) for _ in range(100))  # wrong, but telling places apart


def flat(trainer):
    """The trainer with an encoder that maps everything to one point."""
    parts = trainer.parts.encoder.parts
    trainer.parts.encoder.parts = lambda images: 1 + 0 * parts(images)
    return trainer


def test_a_collapsed_run_says_so_also_where_it_was_interrupted_on_the_way(tiny_root, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(CollapseWatch, "WINDOW", 5)
    config = run_config(tiny_root, tmp_path / "flat", steps=6)
    run_until(config, 4, flat)
    assert read_checkpoint(config.out / "last.safetensors").collapse == pytest.approx(3 * [math.log(4)], rel=1e-4)
    metrics = flat(Trainer(config, resume=True)).run()
    assert metrics["collapsed"] == 5
    assert "ln(batch) = 1.39, for 5 steps up to step 5" in caplog.text


def test_a_damaged_line_of_the_metrics_costs_no_run(whole_run, tiny_root, tmp_path, caplog):
    out = tmp_path / "split"
    run_until(run_config(tiny_root, out), 4)
    log = out / "metrics.jsonl"
    first, _, *rest = log.read_bytes().splitlines(keepends=True)
    garbled = [b'{"step": 1, "loss": 0.\xff\x00\n', b"7\n", b"{}\n", b"\n", b'{"step": 1, "loss": []}\n']
    log.write_bytes(b"".join([first, *garbled, *rest]))
    Trainer(run_config(tiny_root, out), resume=True).run()
    assert "metrics.jsonl has 5 damaged lines of 8 (the first: line 2)" in caplog.text
    steps = read_metrics(log)
    assert [line["step"] for line in steps] == [0, 2, 3, 4, 5]
    assert [line["loss"] for line in steps] == [value for step, value in enumerate(losses(whole_run[0])) if step != 1]
    assert read_record(out).seconds == pytest.approx(sum(line["seconds"] for line in steps))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "is cuda, but this torch sees 0 CUDA GPUs"),
        ("cuda:3", "is cuda:3, but this torch sees 0 CUDA GPUs"),
        ("tpu", "'tpu' is unknown"),
        ("cuda:x", "'cuda:x' is unknown"),
        ("cuda:", "'cuda:' is unknown"),
        ("cpu:1", "'cpu:1' is unknown"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, message, tiny_root, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=message):
        Trainer(run_config(tiny_root, tmp_path, device=device))


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (TrainConfig, {"seed": -1}),
        (TrainConfig, {"evaluate_every": -1}),
        (OptimConfig, {"clip_value": 0.0}),
        (OptimConfig, {"batch_size": 1}),
        (ModelConfig, {"drop_path": 1.5}),
        (DphrConfig, {"weight_min": 3.0}),
        (LossConfig, {"label_smoothing": 1.0}),
        (DataConfig, {"image_px": 4}),
        (DataConfig, {"ground_px": (32, 96)}),
        (DataConfig, {"dataset": "university"}),
        (OptimConfig, {"weight_decay": -1.0}),
        (OptimConfig, {"learning_rate": math.inf}),
        (OptimConfig, {"epochs": math.inf}),
        (OptimConfig, {"chunk_size": -1}),
        (LossConfig, {"temperature": math.inf}),
        (LossConfig, {"infonce": False, "dphr": DphrConfig(triplet=False)}),
        (DphrConfig, {"margin": math.nan}),
        (DphrConfig, {"gamma": -5.0}),
        (DphrConfig, {"lambda_max": -3.0}),
        (AugmentConfig, {"colour_strength": -1.0}),
        (SamplerConfig, {"kind": "hard", "start": "random", "refresh_epochs": 0}),
        (SamplerConfig, {"select": 200}),
    ],
)
def test_a_setting_out_of_its_range_is_refused(section, values):
    with pytest.raises(ConfigError):
        section(**values)


def test_a_set_without_a_test_split_is_trained_and_said_so(tiny_root, tmp_path, caplog):
    shutil.copytree(tiny_root / "train", tmp_path / "set" / "train")
    optim = OptimConfig(batch_size=4, steps=1)
    metrics = Trainer(run_config(tmp_path / "set", tmp_path / "run", optim=optim)).run()
    assert metrics == {}
    assert "no test split" in caplog.text
