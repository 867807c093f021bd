from __future__ import annotations

import json
from pathlib import Path

import pytest
from topk_launches import ORIN_SHARED_BYTES

from dphr_infer.cuda.topk.plan import DOT_TILES, plan_topk
from dphr_infer.cuda.topk.regimes import Regime, dot_up_to, find_dot_up_to, read_regimes, write_regimes
from dphr_infer.errors import EngineError

TABLE = (
    Regime("fp16", 8, 256, 8, "model"),
    Regime("fp16", 8, 1024, 4, "model"),
    Regime("fp16", 132, 512, 2, "model"),
    Regime("int8", 16, 512, 0, "model"),
)


@pytest.mark.parametrize(
    ("dtype", "dim", "sm_count", "expected"),
    [
        ("fp16", 256, 8, 8),
        ("fp16", 500, 8, 8),  # 500/256 = 1.95 is nearer than 1024/500 = 2.05
        ("fp16", 513, 8, 4),
        ("fp16", 512, 32, 8),  # 32/8 = 4 is nearer than 132/32 = 4.1; 512 lies amid 256 and 1024, the first counts
        ("fp16", 256, 33, 2),
        ("int8", 64, 132, 0),
    ],
)
def test_the_nearest_entry_by_sm_count_then_by_dimensions_counts(dtype, dim, sm_count, expected) -> None:
    assert find_dot_up_to(TABLE, dtype, dim, sm_count) == expected
    assert find_dot_up_to(TABLE[::-1], dtype, dim, sm_count) == expected


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_regimes(TABLE[::-1], path)
    assert read_regimes(path) == TABLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "it is dphr-topk-regimes version 2, not dphr-topk-regimes version 1"),
        ({"regimes": []}, "it needs entries for fp16 and int8"),
        ({"regimes": [{"dtype": "fp16"}]}, "missing"),
        ({"regimes": [{"dtype": "fp16", "sm_count": 0, "dim": 1, "dot_up_to": 1, "source": ""}]}, "below its least"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "table.json"
    write_regimes(TABLE, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(EngineError, match=message) as caught:
        read_regimes(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("most", "kernel"), [(0, "topk_mma_f16_q8"), (2, "topk_dot_f16_q2"), (8, "topk_dot_f16_q2")])
def test_the_planner_follows_the_threshold(most: int, kernel: str) -> None:
    assert plan_topk(10**6, 512, 2, 10, "fp16", 8, ORIN_SHARED_BYTES, most).kernel == kernel


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_without_a_threshold_the_planner_asks_the_table_that_ships(dtype) -> None:
    most = dot_up_to(dtype, 512, 16)
    assert most in (0, *DOT_TILES[dtype])
    for n_queries in range(1, 20):
        kernel = plan_topk(10**6, 512, n_queries, 10, dtype, 16, ORIN_SHARED_BYTES).kernel
        assert ("_dot_" in kernel) == (n_queries <= most)
