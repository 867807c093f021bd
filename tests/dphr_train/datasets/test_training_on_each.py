"""A few steps and an evaluation on a tiny tree of every benchmark, with the sampler that its recipe uses."""

import math

import pytest

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
from dphr_train.trainer import Trainer

GPS = SamplerConfig("hard", "gps", refresh_epochs=1, select=2, range=2)
GROUND = AugmentConfig(rotate_satellite=False, rotate_pair=0.75)


def run(root, out, dataset, sampler, model="test_resnet", **changes):
    ground = dataset.startswith(("cv", "vigor"))
    config = TrainConfig(
        out=out,
        data=DataConfig(dataset, root, image_px=32, ground_px=(32, 96) if ground else None),
        augment=GROUND if ground else AugmentConfig(),
        sampler=sampler,
        model=ModelConfig(model, "random"),
        loss=LossConfig(dphr=DphrConfig(window=1)),
        optim=OptimConfig(batch_size=2, steps=3, **changes),
    )
    metrics = Trainer(config).run()
    assert all(math.isfinite(line["loss"]) for line in read_metrics(out / "metrics.jsonl"))
    return metrics["evaluations"]["3"]


@pytest.mark.parametrize(
    ("fixture", "dataset"),
    [("cvusa", "cvusa"), ("cvact", "cvact-val"), ("vigor", "vigor-same"), ("vigor", "vigor-cross")],
)
def test_ground_panoramas_train_beside_square_satellites_on_hard_batches(fixture, dataset, tmp_path, request):
    found = run(request.getfixturevalue(fixture), tmp_path / "run", dataset, GPS)
    report = found["ground->satellite"]["full"]
    assert ("hit_rate" in report) == (fixture == "vigor")


def test_cvact_test_reports_five_metres_beside_the_strict_place(cvact, tmp_path):
    report = run(cvact, tmp_path / "run", "cvact-test", GPS)["ground->satellite"]["full"]
    # Places lie 100 m apart, so within 5 m of a query lies its own image alone.
    assert report["recall_within"] == report["recall_at"] and report["within_m"] == 5.0


def test_sues_trains_at_its_height(sues_prepared, tmp_path):
    found = run(sues_prepared, tmp_path / "run", "sues200-150", SamplerConfig())
    assert found["drone->satellite"]["full"]["n_gallery"] == 4
    assert found["drone->satellite"]["matched"]["n_gallery"] == 1


def test_two_sizes_of_view_train_in_chunks_too(cvusa, tmp_path):
    run(cvusa, tmp_path / "run", "cvusa", GPS, model="test_convnext", chunk_size=1)
