import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from dphr_infer.errors import ConfigError
from dphr_train.compare import draw_rows, group_runs, make_row, rows_to_json, spread, to_markdown
from dphr_train.config import DataConfig, DphrConfig, LossConfig, OptimConfig, TrainConfig
from dphr_train.run_record import RunRecord


def evaluation(recall, ap):
    return {"drone->satellite": {"full": {"recall_at": {"1": recall, "5": 1.0}, "ap": ap}}}


def run(seed, recall, ap=0.5, data="a" * 64, processes=1, **changes):
    config = dataclasses.replace(TrainConfig(seed=seed, out=Path(f"runs/{seed}")), **changes)
    metrics = {"evaluations": {"9": evaluation(0.0, 0.0), "10": evaluation(recall, ap)}} if recall is not None else {}
    return RunRecord(config, 10, None, {"listing_sha256": data}, {"processes": processes}, 1.0, metrics)


def test_runs_that_differ_in_their_seed_share_a_row_with_mean_and_sample_deviation():
    (row,) = group_runs({"a": run(1, 0.40), "b": run(0, 0.50), "c": run(2, 0.45)})
    assert row.seeds == (0, 1, 2)
    assert row.figures["drone->satellite", "R@1"] == pytest.approx((50.0, 40.0, 45.0))
    assert spread(row.figures["drone->satellite", "R@1"]) == "45.00 ± 5.00"


def test_the_last_evaluation_counts_by_number_and_not_by_spelling():
    (row,) = group_runs({"a": run(0, 0.25)})
    assert row.figures["drone->satellite", "R@1"] == pytest.approx((25.0,))


def test_rows_are_named_by_the_settings_that_differ_and_by_no_others():
    optim = OptimConfig(learning_rate=2e-3)
    rows = group_runs({"a": run(0, 0.4), "b": run(0, 0.5, optim=optim)})
    assert [row.name for row in rows] == ["optim.learning_rate 0.001", "optim.learning_rate 0.002"]


def test_runs_on_other_data_are_another_row_named_by_the_digest_wherever_the_data_lies():
    elsewhere = DataConfig(root=Path("/another/disk"))
    runs = {"a": run(0, 0.4), "b": run(1, 0.5, data="b" * 64), "c": run(1, 0.6, data="01234567" + 56 * "f")}
    runs["d"] = dataclasses.replace(runs["a"], config=dataclasses.replace(runs["a"].config, seed=2, data=elsewhere))
    rows = group_runs(runs)
    assert [row.name for row in rows] == ["data aaaaaaaa", "data bbbbbbbb", "data 01234567"]
    assert [row.seeds for row in rows] == [(0, 2), (1,), (1,)]


def test_runs_of_another_number_of_processes_are_another_row():
    rows = group_runs({"a": run(0, 0.4), "b": run(1, 0.5, processes=2)})
    assert [(row.name, row.seeds) for row in rows] == [("processes 1", (0,)), ("processes 2", (1,))]


def test_a_collapsed_run_is_marked_in_the_name_of_its_row():
    collapsed = run(1, 0.01)
    collapsed.metrics["collapsed"] = 120
    assert group_runs({"a": collapsed})[0].name == "a (collapsed at step 120)"
    assert group_runs({"a": run(0, 0.4), "b": collapsed})[0].name == "a (seed 1 collapsed at step 120)"


def test_runs_of_two_benchmarks_are_refused_by_name():
    ground = run(0, 0.4)
    ground.metrics["evaluations"] = {"10": {"ground->satellite": evaluation(0.4, 0.5)["drone->satellite"]}}
    with pytest.raises(ConfigError, match=r"run drone was .* drone->satellite, the run cvusa in ground->satellite"):
        group_runs({"drone": run(0, 0.4), "cvusa": ground})


def test_the_difference_to_the_first_row_is_paired_by_seed():
    first = make_row("base", {0: evaluation(0.40, 0.5), 1: evaluation(0.50, 0.5)})
    second = make_row("more", {1: evaluation(0.53, 0.5), 0: evaluation(0.41, 0.5), 7: evaluation(0.9, 0.5)})
    line = to_markdown([first, second]).splitlines()[3]
    # gains of seeds 0 and 1 are 1 and 3 points: mean 2, sample deviation sqrt(2); seed 7 has no partner.
    assert line.startswith("| more | 3 |") and "(+2.00 ± 1.41)" in line


def test_the_same_settings_and_seed_twice_are_refused():
    with pytest.raises(ConfigError, match="a and b have the same settings and seed"):
        group_runs({"a": run(0, 0.4), "b": run(0, 0.4)})


def test_a_run_that_evaluated_nothing_is_refused_by_name():
    with pytest.raises(ConfigError, match="run b evaluated nothing"):
        group_runs({"a": run(0, 0.4), "b": run(1, None)})


def test_no_run_at_all_is_refused():
    with pytest.raises(ConfigError, match="No run is given"):
        group_runs({})


def test_the_plot_has_a_panel_a_direction_and_the_json_every_seed(tmp_path):
    dphr = LossConfig(dphr=DphrConfig(rda=False))
    rows = group_runs({"a": run(0, 0.4), "b": run(1, 0.5), "c": run(0, 0.45, loss=dphr)})
    draw_rows(rows, tmp_path / "rows.png", "title")
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.width > 400
    assert rows_to_json(rows)[0]["figures"]["drone->satellite R@1"] == pytest.approx([40.0, 50.0])
