import dataclasses
import json

import pytest

from dphr_infer.errors import ConfigError
from dphr_train.ablation import BASE, FULL, ROWS, row_config, run_ablation
from dphr_train.config import DataConfig, DphrConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from dphr_train.run_log import read_metrics


@pytest.fixture(scope="module")
def config(tiny_root, tmp_path_factory):
    return TrainConfig(
        out=tmp_path_factory.mktemp("ablation"),
        data=DataConfig(root=tiny_root, image_px=32),
        model=ModelConfig(name="test_resnet", weights="random"),
        loss=LossConfig(dphr=DphrConfig(window=1, beta=0.5, margin=0.7)),
        optim=OptimConfig(batch_size=4, steps=3),
    )


@pytest.fixture(scope="module")
def rows(config):
    return run_ablation(config, (0, 1))


def test_the_rows_switch_the_terms_of_the_paper_on_one_by_one_and_nothing_else(config):
    switches = []
    for row in ROWS:
        run = row_config(config, row, 3, config.out)
        switches.append((run.loss.dphr.triplet, run.loss.dphr.rda, run.loss.dphr.palw))
        same = dataclasses.replace(run.loss.dphr, triplet=True, rda=True, palw=True)
        assert same == config.loss.dphr and run.optim == config.optim and run.seed == 3
    assert switches == [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, False, True),
        (True, True, True),
    ]


def test_every_row_trains_with_every_seed_on_the_same_pairs_in_the_same_order(config, rows):
    assert [row.name for row in rows] == list(ROWS)
    assert all(row.seeds == (0, 1) for row in rows)
    first = {
        folder: read_metrics(config.out / folder / "metrics.jsonl")[0]["infonce"]
        for folder in ("base-seed0", "dphr-seed0", "base-seed1")
    }
    assert first["base-seed0"] == first["dphr-seed0"] != first["base-seed1"]


def test_the_summary_holds_every_figure_and_the_settings(config, rows):
    summary = json.loads((config.out / "ablation.json").read_text())
    assert [row["name"] for row in summary["rows"]] == list(ROWS)
    assert summary["config"]["loss"]["dphr"]["margin"] == 0.7
    assert str(config.out) not in (config.out / "ablation.json").read_text()
    assert (config.out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert FULL in (config.out / "ablation.md").read_text()


def test_what_has_ended_is_not_made_again_and_a_new_seed_is_added(config, rows):
    record = config.out / "base-seed0" / "run.json"
    before = record.stat().st_mtime_ns
    again = run_ablation(config, (0, 2), rows=(BASE,))
    assert again[0].seeds == (0, 2) and record.stat().st_mtime_ns == before


def test_a_folder_of_another_ablation_is_refused(config, rows):
    other = dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=0.5))
    with pytest.raises(ConfigError, match="other settings"):
        run_ablation(other, (0,), rows=(BASE,))
