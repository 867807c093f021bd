from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bench.cases import galleries
from bench.cases.batches import BatchCase, embed_limit
from bench.cases.galleries import generate_rows
from bench.cases.matching import MatchLimits, time_matching
from bench.machine.roofline import Ceiling
from bench.sampling import StopRule
from dphr_infer.errors import ConfigError
from dphr_infer.files.bundle import Bundle
from dphr_infer.images.photo import Photo
from dphr_infer.locate.devices import open_engine
from dphr_infer.measure.machine import Machine

SHORT = StopRule(0.01)


def test_generated_rows_are_of_unit_length_and_the_same_every_time() -> None:
    rows = generate_rows(100, 16, "float32", seed=3)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(100), abs=1e-6)
    assert np.array_equal(rows, generate_rows(100, 16, "float32", seed=3))


def test_a_gallery_beyond_half_of_the_free_memory_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "available_bytes", lambda: 1_000_000_000)
    with pytest.raises(ConfigError, match=r"takes 4\.0 GB, and 1\.0 GB are free"):
        generate_rows(1_000_000, 1000, "float32", seed=0)


def test_matching_states_its_bytes_limit_and_share(machine: Machine) -> None:
    queries, against = generate_rows(2, 16, "float32", seed=1), MatchLimits(machine, 1e9)
    single, half = (
        time_matching(generate_rows(400, 16, dtype, seed=0), queries, 10, SHORT, against)
        for dtype in ("float32", "float16")
    )
    assert (single.read_bytes, half.read_bytes) == (400 * 16 * 4, 400 * 16 * 2)
    assert single.limit_ms == pytest.approx(0.0256)
    assert single.bandwidth_share == pytest.approx(0.0256 / single.latency.p50_ms)
    assert single.in_cache
    assert len(single.samples_ms) == single.latency.n


def test_the_limit_of_an_embedding_is_the_later_of_arithmetic_and_bandwidth(bundle: Bundle) -> None:
    """The tiny model's product is 3 x 8 a photo; its constants are 24 floats and 3 int64; a photo has 4608 bytes."""
    path, took = bundle.model_path("fp32"), np.array([0.5, 0.5, 0.5])
    slow_memory = embed_limit(path, 2, Ceiling(bandwidth=1e6, flops_per_s=1e9), took)
    least_bytes = 24 * 4 + 3 * 8 + 2 * (32 * 48 * 3 + 8 * 4)
    assert (slow_memory.flops, slow_memory.least_bytes) == (2 * 2 * 3 * 8, least_bytes)
    assert slow_memory.bound == "bandwidth"
    assert slow_memory.floor_ms == pytest.approx(1e3 * least_bytes / 1e6)
    assert slow_memory.share == pytest.approx(slow_memory.floor_ms / 0.5)
    slow_arithmetic = embed_limit(path, 2, Ceiling(bandwidth=1e12, flops_per_s=1e3), took)
    assert slow_arithmetic.bound == "arithmetic"
    assert slow_arithmetic.floor_ms == pytest.approx(96.0)


def test_without_a_gallery_a_batch_measures_embedding_alone(bundle: Bundle) -> None:
    image = np.full((32, 48, 3), 90, np.uint8)
    with open_engine(bundle) as engine:
        case = BatchCase(bundle, engine, "fp32", 0, [Photo(image)], None, Ceiling(1e9, 1e9))
        record, reason = case.measure(3, SHORT)
        elsewhere, why = dataclasses.replace(case, ceiling=None).measure(1, SHORT)
    assert (record.locate, record.locate_images_per_s, record.locate_samples_ms, reason) == (None, None, (), "")
    assert (elsewhere.embed_limit, "runs on a GPU" in why) == (None, True)
    assert record.embed_images_per_s == pytest.approx(3000 / record.embed.p50_ms)
    assert record.embed_limit is not None and record.embed_limit.flops == 3 * 48
