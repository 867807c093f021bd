from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

from bench.compare.series import metrics
from bench.record import BenchRecord


def test_the_json_states_its_schema_and_keeps_every_sample(
    record: BenchRecord, check_schema: Callable[[Any], list[str]]
) -> None:
    content = json.loads(record.to_line())
    assert check_schema(content) == []
    assert (content["schema"], content["schema_version"]) == ("dphr-bench", 3)
    assert content["scenarios"][0]["samples_ms"] == [9.0, 10.0, 11.0, 50.0]
    assert content["scenarios"][0]["latency"] == {
        "n": 70,
        "p50_ms": 10.0,
        "p90_ms": 12.0,
        "p99_ms": None,
        "p999_ms": None,
        "max_ms": 20.0,
    }


def test_a_run_whose_memory_and_widened_scans_differ_has_the_same_metrics(record: BenchRecord) -> None:
    matching = tuple(
        dataclasses.replace(row, peak_memory_bytes=7, widened=3, rescanned=2, in_cache=True, read_bytes=9)
        for row in record.matching
    )
    batches = tuple(dataclasses.replace(row, peak_memory_bytes=7) for row in record.batches)
    other = dataclasses.replace(record, matching=matching, batches=batches)
    assert list(metrics("A", other.to_json())) == list(metrics("B", record.to_json()))
    assert len(metrics("A", record.to_json())) > len(matching) + len(batches)


def test_the_checker_finds_a_missing_key_a_wrong_type_and_a_sample_that_is_none(
    record: BenchRecord, check_schema: Callable[[Any], list[str]]
) -> None:
    content = json.loads(record.to_line())
    del content["overhead_ns"]
    content["valid"] = "yes"
    content["scenarios"][1]["samples_ms"] = [0.0]
    content["timeline"][0]["t_s"] = None
    assert check_schema(content) == [
        "record lacks overhead_ns",
        "record.valid is str",
        "timeline[0].t_s is NoneType",
        "camera has a sample that is no duration",
    ]


def test_what_is_not_finite_becomes_null_so_that_every_reader_takes_it(record: BenchRecord) -> None:
    odd = dataclasses.replace(record, overhead_ns=math.inf, startup_ms={"a": [math.nan, 1.0]})
    content = json.loads(odd.to_line())
    assert (content["overhead_ns"], content["startup_ms"]) == (None, {"a": [None, 1.0]})
    assert odd.to_line().count("\n") == 1


def test_a_scenario_is_found_by_its_name(record: BenchRecord) -> None:
    found = record.scenario("camera")
    assert found is not None and found.extra["missed"] == 8
    assert record.scenario("offline") is None
