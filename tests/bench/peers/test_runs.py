from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.peers import cpu as peers
from bench.peers import runs as peer_runs
from bench.peers.cpu import Peer
from bench.peers.runs import EmbedTask, embed_peers, match_peers, open_match_peers
from dphr_infer.engines.onnxruntime import onnxruntime_version
from dphr_infer.files.bundle import Bundle
from dphr_infer.locate.devices import open_engine
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.types import Matches


def unit_rows(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture
def only_numpy_and_two_bad_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_blind(gallery: np.ndarray, threads: int) -> list[Peer]:
        """Finds the right rows but the first, which it takes for its neighbour."""

        def search(queries: np.ndarray, k: int) -> Matches:
            found = peers.open_numpy(gallery)[0].search(queries, k)
            found.rows[:, 0] = -1
            return found

        return [Peer("blind", "1", search)]

    def open_crashing(gallery: np.ndarray, threads: int) -> list[Peer]:
        def search(queries: np.ndarray, k: int) -> Matches:
            raise MemoryError("no room")

        return [Peer("crashing", "2", search)]

    monkeypatch.setattr(peers, "OPENERS", {"blind": open_blind, "crashing": open_crashing})


def test_searches_are_compared_in_turns_and_one_that_crashes_keeps_its_row(only_numpy_and_two_bad_ones: None) -> None:
    gallery = unit_rows(300, 0).astype(np.float16)
    with NumpyExactMatcher(gallery) as matcher:
        opened = open_match_peers(gallery, threads=1)
        found = match_peers(opened, matcher, unit_rows(3, 1), 5, seconds=0)
    by_name = {record.name: record for record in found}
    assert list(by_name) == ["dphr numpy exact", "numpy product and argpartition", "blind", "crashing"]
    ours = by_name["dphr numpy exact"]
    assert (ours.times_ours, ours.times_ours_quartiles, ours.recall) == (1, (1, 1), 1)
    assert by_name["numpy product and argpartition"].recall == 1
    assert by_name["blind"].recall == pytest.approx(0.8)
    assert by_name["blind"].latency is not None and by_name["blind"].latency.n == ours.latency.n
    assert (by_name["crashing"].latency, by_name["crashing"].failure) == (None, "MemoryError: no room")
    assert {record.task for record in found} == {"matching 300 x 16 float16, 3 q, k 5"}


def test_a_peer_that_answers_in_another_shape_keeps_its_row_and_the_others_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def open_short(gallery: np.ndarray, threads: int) -> list[Peer]:
        def search(queries: np.ndarray, k: int) -> Matches:
            found = peers.open_numpy(gallery)[0].search(queries, k)
            return Matches(found.rows[:1], found.similarity[:1])

        return [Peer("short", "1", search)]

    monkeypatch.setattr(peers, "OPENERS", {"short": open_short})
    gallery = unit_rows(300, 0)
    with NumpyExactMatcher(gallery) as matcher:
        found = match_peers(open_match_peers(gallery, 1), matcher, unit_rows(3, 1), 5, seconds=0)
    by_name = {record.name: record for record in found}
    assert "ValueError" in by_name["short"].failure
    assert by_name["numpy product and argpartition"].recall == 1


def test_on_a_gpu_its_own_peers_are_tried_and_each_says_why_it_is_left_out() -> None:
    gallery = unit_rows(300, 0).astype(np.float16)
    with NumpyExactMatcher(gallery) as matcher:
        found = match_peers(open_match_peers(gallery, 1, "cuda"), matcher, unit_rows(3, 1), 5, seconds=0)
    names = " ".join(record.name.lower() for record in found)
    assert all(package in names for package in ("torch", "faiss", "cuvs"))
    for record in found:
        assert record.failure or (record.recall is not None and record.recall > 0.9)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_onnxruntime_itself_gives_the_engines_embeddings_or_says_why_not(bundle: Bundle, on_gpu: bool) -> None:
    task = EmbedTask(bundle.model_path("fp32"), None, on_gpu, threads=1)
    size = bundle.manifest.preprocess
    views = np.random.default_rng(0).integers(0, 256, (2, size.height_px, size.width_px, 3), dtype=np.uint8)
    with open_engine(bundle) as engine:
        ours, other = embed_peers(engine, task, views, seconds=0)
        assert (ours.name, ours.times_ours) == ("dphr onnxruntime CPU fp32", 1)
        if on_gpu and other.failure:
            assert "CUDAExecutionProvider" in other.failure
            return
        assert other.failure == ""
        assert other.version == onnxruntime_version()[0]
        ((_, open_peer),) = task.openers().values()
        assert open_peer()(views) == pytest.approx(engine.embed(views), abs=1e-5)


def test_a_gallery_that_does_not_fit_as_float32_is_left_to_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_runs, "available_bytes", lambda: 30_000)
    gallery = unit_rows(300, 0)
    with NumpyExactMatcher(gallery) as matcher:
        (record,) = match_peers(open_match_peers(gallery, 1), matcher, unit_rows(1, 1), 5, seconds=0)
    assert "do not fit in 0.0 GB" in record.failure


def test_a_run_with_peers_writes_their_rows_and_says_what_is_left_out(
    bundle: Bundle,
    gallery: Path,
    tmp_path: Path,
    only_numpy_and_two_bad_ones: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick = ["--seconds", "0.01", "--startups", "0", "--batches", "1", "--scenarios"]
    words = ["run", str(bundle.folder), str(gallery), *quick, "--peers", "--json", str(tmp_path / "b.json")]
    assert main(words) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert [peer["name"] for peer in found["peers"]].count("crashing") == 2
    assert "torch as a peer of embedding" in found["left_out"]
    (other,) = [peer for peer in found["peers"] if peer["name"] == "onnxruntime alone"]
    assert (other["failure"], other["task"]) == ("", "embedding a batch of 1")
    assert other["times_ours"] > 0
    assert "MemoryError: no room" in capsys.readouterr().out


def write_random_checkpoint(path: Path, seed: int) -> Path:
    import torch

    from dphr_train.checkpoint import Checkpoint, write_checkpoint
    from dphr_train.config import DataConfig, ModelConfig, TrainConfig
    from dphr_train.encoder import Encoder

    torch.manual_seed(seed)
    model = ModelConfig(name="test_efficientnet", weights="random", pooling="gem", projection_dim=8)
    config = TrainConfig(data=DataConfig(image_px=32), model=model)
    write_checkpoint(path, Checkpoint(config, 40, 1, 2, 1, Encoder(model, 32).state_dict()))
    return path


def test_torch_on_the_same_weights_is_a_peer_and_on_others_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is torch itself on known weights; its compiler is said to be missing."""
    pytest.importorskip("torch")
    from dphr_train.checkpoint import load_encoder
    from dphr_train.encoder import Encoder
    from export.gate.parity import torch_embedder

    def no_compiler(self: Encoder) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(Encoder, "compile", no_compiler)
    mine, others = (write_random_checkpoint(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1))

    class TorchEngine:
        name = "torch"
        embed = staticmethod(torch_embedder(load_encoder(mine)[0]))

    views = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    no_model = tmp_path / "none.onnx"
    task = EmbedTask(no_model, mine, on_gpu=False, threads=1)
    found = embed_peers(TorchEngine(), task, views, seconds=0)  # type: ignore[arg-type]
    assert [(record.name, record.failure) for record in found if "onnxruntime" not in record.name] == [
        ("dphr torch", ""),
        ("torch eager, fp32", ""),
        ("torch.compile, fp32", "RuntimeError: no C++ compiler"),
    ]
    assert "none.onnx" in found[2].failure
    assert found[1].times_ours is not None and found[1].times_ours > 0
    assert {record.task for record in found} == {"embedding a batch of 2"}
    task = EmbedTask(no_model, others, on_gpu=False, threads=1)
    strangers = {record.name: record for record in embed_peers(TorchEngine(), task, views, 0)}  # type: ignore[arg-type]
    assert "is it the bundle's checkpoint?" in strangers["torch eager, fp32"].failure
