import json
import subprocess

import pytest

from dphr_infer.errors import CheckpointError
from dphr_train.config import TrainConfig
from dphr_train.run_record import (
    RunRecord,
    describe_data,
    describe_environment,
    git_revision,
    read_record,
    write_record,
)


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    record = RunRecord(
        TrainConfig(seed=5, out=tmp_path), 7, None, {"images": 3}, describe_environment("cpu", 2), 1.5, {"collapsed": 4}
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


def test_a_record_of_another_release_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"format": "dphr-run", "version": 9}))
    with pytest.raises(CheckpointError, match="version 9"):
        read_record(tmp_path)
