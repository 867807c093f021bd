from __future__ import annotations

import builtins
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from bench.peers import cpu as peers
from bench.peers.cpu import open_numpy, open_peers, recall_of


@pytest.fixture
def without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    import_really, find_really = builtins.__import__, importlib.util.find_spec

    def import_others(name: str, *arguments: object) -> object:
        if name.partition(".")[0] in ("faiss", "usearch", "hnswlib"):
            raise ImportError(name)
        return import_really(name, *arguments)

    def find_others(name: str) -> ModuleSpec | None:
        return None if name in ("faiss", "usearch", "hnswlib", "torch") else find_really(name)

    monkeypatch.setattr(builtins, "__import__", import_others)
    monkeypatch.setattr(importlib.util, "find_spec", find_others)  # what is not there is not tried in a process
    monkeypatch.setattr(peers, "_TORCH", "a_package_that_is_not_there")


def test_recall_counts_true_rows_in_any_order() -> None:
    found, true = np.array([[1, 2, 3], [4, 9, 8]], np.int32), np.array([[3, 2, 1], [4, 5, 6]], np.int32)
    assert recall_of(found, true) == pytest.approx(4 / 6)


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
    if "sleep" in body:  # the others may take their time on a busy machine
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
