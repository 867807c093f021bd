import dataclasses
import json
import shutil

import pytest

from dphr_infer.errors import ConfigError, DatasetError
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


@pytest.mark.parametrize(
    ("section", "changes", "what"),
    [
        ("optim", {"learning_rate": 0.5}, "optim.learning_rate is 0.5 here and 0.001 there"),
        ("augment", {"flip": 0.25}, "augment.flip is 0.25 here and 0.5 there"),
        ("data", {"image_px": 64}, "data.image_px is 64 here and 32 there"),
        ("model", {"pooling": "average"}, "model.pooling is average here and gem there"),
    ],
)
def test_a_folder_of_another_ablation_is_refused_with_both_values(section, changes, what, config, rows):
    other = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})
    with pytest.raises(ConfigError, match=f"base-seed0 holds a run with other settings: {what}.*another --out"):
        run_ablation(other, (0,), rows=(BASE,))


def test_a_row_made_on_other_data_is_refused_before_another_seed_trains(config, rows, tiny_root, tmp_path):
    shutil.copytree(tiny_root, tmp_path / "data")
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, root=tmp_path / "data"))
    assert run_ablation(moved, (0,), rows=(BASE,))[0].seeds == (0,)  # the same pictures in another place
    (tmp_path / "data" / "train" / "drone" / "0000" / "image-03.jpeg").unlink()
    with pytest.raises(ConfigError, match=r"other data: .* digest [0-9a-f]{8}, its data had [0-9a-f]{8}\."):
        run_ablation(moved, (5, 0), rows=(BASE,))
    assert not (config.out / "base-seed5").exists()


@pytest.mark.parametrize(("seeds", "what"), [((), "No seed is given"), ((1, 0, 1), "seed 1 is given twice")])
def test_no_seed_and_a_seed_twice_are_refused(seeds, what, config):
    with pytest.raises(ConfigError, match=what):
        run_ablation(config, seeds)


def test_data_without_a_test_split_are_refused_before_any_training(config, tiny_root, tmp_path):
    shutil.copytree(tiny_root / "train", tmp_path / "data" / "train")
    data = dataclasses.replace(config.data, root=tmp_path / "data")
    with pytest.raises(DatasetError, match="no test split"):
        run_ablation(dataclasses.replace(config, data=data, out=tmp_path / "out"), (0,))
    assert not (tmp_path / "out").exists()


def test_a_folder_inside_the_data_set_is_refused(config, tiny_root):
    with pytest.raises(ConfigError, match="lies inside the data set"):
        run_ablation(dataclasses.replace(config, out=tiny_root / "runs" / "ablation"), (0,))


def test_a_collapsed_run_is_marked_in_the_table(config, rows):
    path = config.out / "base-seed1" / "run.json"
    whole = path.read_text()
    record = json.loads(whole)
    record["metrics"]["collapsed"] = 2
    try:
        path.write_text(json.dumps(record))
        (row,) = run_ablation(config, (0, 1), rows=(BASE,))
    finally:
        path.write_text(whole)
    assert row.name == f"{BASE} (seed 1 collapsed at step 2)"
