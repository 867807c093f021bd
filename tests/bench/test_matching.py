from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from bench import matching
from bench.machine import roofline
from bench.matching import (
    OURS,
    OURS_EVERY_CALL,
    OURS_INT8,
    OURS_WIDENED,
    READ,
    compare,
    run_matching,
    to_text,
)
from bench.peers import cpu as peers
from bench.peers.cpu import open_numpy, open_peers, recall_of
from bench.peers.turns import take_turns
from dphr_infer.types import Matches


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "buffer_bytes", lambda cache, available: 8 << 20)


@pytest.fixture
def without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    import_really = builtins.__import__

    def import_others(name: str, *arguments: object) -> object:
        if name.partition(".")[0] in ("faiss", "usearch", "hnswlib"):
            raise ImportError(name)
        return import_really(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", import_others)
    monkeypatch.setattr(peers, "_TORCH", "a_package_that_is_not_there")


def test_calls_take_turns_and_the_first_turn_is_not_counted() -> None:
    order: list[str] = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    turns = take_turns(calls, seconds=0, needed=frozenset())
    assert order == ["a", "b", "b", "a"] * 5 + ["a", "b"]
    assert {name: len(values) for name, values in turns.samples_ms.items()} == {"a": 10, "b": 10}


def test_a_call_that_fails_loses_its_turns_says_why_and_the_others_go_on() -> None:
    order: list[str] = []

    def failing() -> None:
        order.append("b")
        if order.count("b") == 4:
            raise RuntimeError("out of\n memory")

    turns = take_turns({"a": lambda: order.append("a"), "b": failing}, seconds=0, needed=frozenset({"a"}))
    assert (order.count("a"), order.count("b")) == (11, 4)
    assert (list(turns.samples_ms), turns.failed) == (["a"], {"b": "RuntimeError: out of memory"})
    with pytest.raises(RuntimeError, match="out of"):
        order.clear()
        take_turns({"b": failing}, seconds=0, needed=frozenset({"b"}))


def test_recall_counts_true_rows_in_any_order() -> None:
    found, true = np.array([[1, 2, 3], [4, 9, 8]], np.int32), np.array([[3, 2, 1], [4, 5, 6]], np.int32)
    assert recall_of(found, true) == pytest.approx(4 / 6)


def test_answers_are_compared_rank_by_rank() -> None:
    ours = Matches(np.array([[1, 2], [3, 4]], np.int32), np.array([[0.5, 0.25], [0.5, 0.25]], np.float32))
    theirs = Matches(np.array([[1, 2], [4, 4]], np.int32), np.array([[0.5, 0.25], [0.5, 0.5]], np.float32))
    assert compare(theirs, ours) == (0.75, 0.25)


def test_every_installed_peer_finds_the_rows_placed_by_hand() -> None:
    gallery = np.zeros((200, 64), np.float32)
    gallery[:, 0] = 1
    for row, cosine in ((7, 0.8), (150, 0.6), (42, 0.28)):
        gallery[row, :2] = np.sqrt(1 - cosine**2), cosine
    query = np.zeros((2, 64), np.float32)
    query[:, 1] = 1
    opened, _ = open_peers(gallery, 1)
    assert opened
    for peer in opened:
        found = peer.search(query, 3)
        assert found.rows.tolist() == [[7, 150, 42]] * 2, peer.name
        np.testing.assert_allclose(found.similarity, [[0.8, 0.6, 0.28]] * 2, atol=1e-6)


def test_a_peer_that_is_not_installed_is_left_out_with_its_pip_line(without_peers: None) -> None:
    gallery = np.eye(4, dtype=np.float32)
    opened, left_out = open_peers(gallery, 1)
    assert [peer.name for peer in opened] == [peer.name for peer in open_numpy(gallery)]
    assert set(left_out) == {"faiss", "usearch", "torch", "hnswlib"}
    assert all("pip install 'dphr[" in reason for reason in left_out.values())


def test_a_peer_that_cannot_be_opened_is_left_out_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(gallery: np.ndarray, threads: int) -> list[peers.Peer]:
        raise OSError("libgomp is missing")

    monkeypatch.setitem(peers.OPENERS, "faiss", broken)
    _, left_out = open_peers(np.eye(4, dtype=np.float32), 1)
    assert left_out["faiss"] == "faiss could not be opened: OSError: libgomp is missing"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os.abort()", "faiss ended a process that searched 200 rows: SIGABRT"),
        ("import os; os._exit(3)", "faiss ended a process that searched 200 rows: exit code 3"),
        ("raise SystemExit(4)", "faiss ended a process that searched 200 rows: exit code 4"),
        ("import time; time.sleep(60)", "faiss did not end a search of 200 rows within 2 s"),
        ("raise OSError('no libgomp')", "faiss could not be opened: OSError: no libgomp"),
    ],
)
def test_a_peer_that_would_end_or_hold_the_process_is_left_out_and_this_one_lives(
    body: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faiss.py").write_text(body + "\n")
    monkeypatch.setattr(peers, "OPENERS", {"faiss": peers.open_faiss})
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(peers, "_REHEARSAL_SECONDS", 2)
    peers.crash_of.cache_clear()
    opened, left_out = open_peers(np.eye(4, dtype=np.float32), 1)
    peers.crash_of.cache_clear()
    assert left_out["faiss"] == words
    assert [peer.name for peer in opened] == ["numpy product and argpartition"]


def test_faiss_keeps_its_own_threshold_for_the_next_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def knn(queries: np.ndarray, gallery: np.ndarray, k: int, metric: int) -> tuple[np.ndarray, np.ndarray]:
        seen.append(faiss.cvar.distance_compute_blas_threshold)
        similarity = np.sort(queries @ gallery.T, axis=1)[:, ::-1][:, :k]
        return similarity, np.zeros((len(queries), k), np.int64)

    faiss = ModuleType("faiss")
    faiss.__dict__.update(
        cvar=SimpleNamespace(distance_compute_blas_threshold=20),
        omp_set_num_threads=lambda threads: None,
        METRIC_INNER_PRODUCT=0,
        __version__="1",
        knn=knn,
    )
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    gallery = np.eye(4, dtype=np.float32)
    for _ in range(2):
        for peer in peers.open_faiss(gallery, 1):
            peer.search(gallery[:2], 1)
    assert seen == [20, 2, 20, 2]


def test_a_run_states_shares_ratios_and_agreement_from_its_own_samples(without_peers: None) -> None:
    record = run_matching(2000, 16, [1, 3], k=5, threads=1, seconds=0)
    assert [case.queries for case in record.cases] == [1, 3]
    for case in record.cases:
        by_name = {item.name: item for item in case.searches}
        assert list(by_name) == [READ, OURS, "numpy product and argpartition"]
        assert by_name[OURS].times_ours == 1
        assert by_name[READ].read_share == 1
        assert by_name[READ].same_rows is None
        theirs = by_name["numpy product and argpartition"]
        assert theirs.same_rows == 1
        assert theirs.similarity_difference is not None and theirs.similarity_difference < 1e-6
        for item in case.searches:
            samples = sorted(case.samples_ms[item.name])
            assert len(samples) == item.latency.n >= 10
            assert item.p25_ms == samples[-(-len(samples) // 4) - 1]
            median = samples[-(-len(samples) // 2) - 1]
            assert item.latency.p50_ms == median
            least_ms = 1e3 * 2000 * 16 * 4 / record.bandwidth_bytes_per_s
            assert item.bandwidth_share == pytest.approx(least_ms / median)
    assert "left out: Comparing ours with it needs the package faiss-cpu" in to_text(record)


def test_a_float16_gallery_is_measured_by_our_three_ways_which_agree() -> None:
    record = run_matching(3000, 32, [2], k=5, threads=2, seconds=0, stored="float16")
    by_name = {item.name: item for item in record.cases[0].searches}
    assert list(by_name) == [READ, OURS_WIDENED, OURS_EVERY_CALL, OURS_INT8]
    assert by_name[OURS_WIDENED].times_ours == 1
    for name in (OURS_EVERY_CALL, OURS_INT8):
        assert by_name[name].same_rows == 1, name
        assert by_name[name].similarity_difference < 1e-6, name
    read = by_name[READ]
    assert read.bandwidth_share == pytest.approx(
        1e3 * 3000 * 32 * 2 / record.bandwidth_bytes_per_s / read.latency.p50_ms
    )
    assert "0 queries scanned again by float16" in to_text(record)


def test_the_command_writes_what_it_prints(tmp_path, capsys: pytest.CaptureFixture[str], without_peers: None) -> None:
    path = tmp_path / "matching.json"
    small = ["--rows", "300", "--dim", "8", "--queries", "2", "--threads", "1", "--seconds", "0"]
    assert matching.main([*small, "--json", str(path)]) == 0
    content = json.loads(path.read_text())
    assert (content["schema"], content["rows"], content["k"]) == ("dphr-bench-matching", 300, 10)
    assert len(content["cases"][0]["samples_ms"][OURS]) >= 10
    assert OURS in capsys.readouterr().out


def test_more_matches_than_rows_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert matching.main(["--rows", "5", "--k", "6"]) == 2
    assert "k 6" in capsys.readouterr().err
