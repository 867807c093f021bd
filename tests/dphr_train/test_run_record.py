import json
import subprocess
from pathlib import Path

import pytest

from dphr_infer.errors import CheckpointError, DatasetError
from dphr_train.config import TrainConfig
from dphr_train.config_json import config_to_json
from dphr_train.run_record import (
    RunRecord,
    describe_data,
    describe_environment,
    git_revision,
    read_record,
    write_record,
)

DATA = {"images": 3, "listing_sha256": "0" * 64}
FIGURES = {"recall_at": {"1": 0.5}, "ap": 0.5}


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    record = RunRecord(
        TrainConfig(seed=5, out=tmp_path), 7, None, DATA, describe_environment("cpu", 2), 1.5, {"collapsed": 4}
    )
    write_record(tmp_path, record)
    found = read_record(tmp_path)
    assert found.config == record.config and found.metrics == {"collapsed": 4} and found.steps == 7
    assert found.environment["processes"] == 2 and {"torch", "timm", "dphr", "threads"} <= found.environment.keys()


def test_the_last_evaluation_is_the_one_of_the_highest_step():
    record = RunRecord(TrainConfig(), 10, None, {}, {}, 0.0, {"evaluations": {"9": {"a": 1}, "10": {"b": 2}}})
    assert record.evaluation() == {"b": 2}
    assert RunRecord(TrainConfig(), 10, None, {}, {}, 0.0, {}).evaluation() == {}


def test_the_digest_of_the_data_changes_with_a_missing_picture_and_a_changed_size(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"123")
    (tmp_path / "2.png").write_bytes(b"45")
    (tmp_path / "notes.txt").write_bytes(b"not counted")
    whole = describe_data(tmp_path)
    assert whole["images"] == 2
    (tmp_path / "notes.txt").unlink()
    assert describe_data(tmp_path) == whole
    (tmp_path / "2.png").write_bytes(b"456")
    changed = describe_data(tmp_path)
    (tmp_path / "2.png").unlink()
    gone = describe_data(tmp_path)
    assert len({entry["listing_sha256"] for entry in (whole, changed, gone)}) == 3


def test_a_linked_folder_counts_with_what_it_leads_to(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1.jpg").write_bytes(b"123")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "train").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "copied" / "train").mkdir(parents=True)
    (tmp_path / "copied" / "train" / "1.jpg").write_bytes(b"123")
    linked, copied = describe_data(tmp_path / "linked"), describe_data(tmp_path / "copied")
    assert linked["images"] == 1 and linked["listing_sha256"] == copied["listing_sha256"]


def test_links_that_lead_nowhere_or_back_up_do_not_count(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "1.jpg").write_bytes(b"123")
    before = describe_data(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "not there.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert describe_data(tmp_path) == before
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a", target_is_directory=True)
    assert describe_data(tmp_path)["images"] == 4  # a, a/b, b, b/a and no further


def test_a_runs_own_folder_inside_the_data_set_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "1.jpg").write_bytes(b"123")
    before = describe_data(tmp_path)
    (tmp_path / "runs" / "one" / "deep").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "curves.png").write_bytes(b"1")
    (tmp_path / "runs" / "one" / "deep" / "more.png").write_bytes(b"1")
    assert describe_data(tmp_path)["images"] == 3
    assert describe_data(tmp_path, leave_out=tmp_path / "runs" / "one") == before
    monkeypatch.chdir(tmp_path)
    here = describe_data(Path(), leave_out=Path("runs/one"))
    assert here["listing_sha256"] == before["listing_sha256"]


def test_a_data_folder_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match="nowhere cannot be read"):
        describe_data(tmp_path / "nowhere")


def test_the_revision_says_whether_the_source_was_changed(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("-c", "user.name=n", "-c", "user.email=e@x", "commit", "-qm", "one")
    clean = git_revision(tmp_path)
    (tmp_path / "a.py").write_text("2")
    assert clean is not None and clean["changed"] is False and len(clean["revision"]) == 40
    assert git_revision(tmp_path) == {**clean, "changed": True}


def test_outside_a_checkout_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision(tmp_path) is None


def test_a_folder_without_a_record_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(CheckpointError, match="--resume"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "dphr-run", "version": 1}'])
def test_a_damaged_record_is_refused(text, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match="damaged"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"metrics": None}, "metrics is 'None', not an object"),
        ({"metrics": {"evaluations": []}}, "metrics.evaluations is"),
        ({"metrics": {"evaluations": {"last": {}}}}, "'last'"),
        ({"metrics": {"evaluations": {"7": {"a->b": {"matched": FIGURES}}}}}, "it has no 'full'"),
        ({"metrics": {"evaluations": {"7": {"a->b": {"full": {"ap": 0.5}}}}}}, "it has no 'recall_at'"),
        ({"metrics": {"evaluations": {"7": {"a->b": {"full": {**FIGURES, "ap": "0.5"}}}}}}, "a->b ap is '0.5'"),
        ({"metrics": {"evaluations": {"7": {"a->b": {"full": {**FIGURES, "ap": 50.0}}}}}}, "a->b ap is '50.0'"),
        ({"metrics": {"collapsed": "yes"}}, "metrics.collapsed is 'yes'"),
        ({"data": {"images": 3}}, "it has no 'listing_sha256'"),
        ({"environment": []}, "environment is"),
        ({"steps": None}, "steps is 'None'"),
        ({"config": {}}, "configuration cannot be read"),
        ({"config": {**config_to_json(TrainConfig()), "seed": -1}}, "seed is -1"),
    ],
)
def test_a_record_of_a_wrong_shape_is_damaged_and_named_with_its_file(changes, what, tmp_path):
    metrics = {"evaluations": {"7": {"a->b": {"full": FIGURES}}}}
    write_record(tmp_path, RunRecord(TrainConfig(), 7, None, DATA, {"processes": 1}, 1.5, metrics))
    path = tmp_path / "run.json"
    assert read_record(tmp_path).metrics == metrics
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match="damaged") as caught:
        read_record(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(path)) and what in message and "\n" not in message


def test_a_record_of_another_release_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"format": "dphr-run", "version": 9}))
    with pytest.raises(CheckpointError, match="version 9"):
        read_record(tmp_path)
