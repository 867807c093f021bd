from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench import cases
from bench.cases import END_TO_END, STAGES, difference_ms, generate_rows, time_generated_matching, time_stages
from bench.machine import MachineProfile
from dphr_infer.bundle import SELFTEST_IMAGES, Bundle
from dphr_infer.engines.open import open_engine
from dphr_infer.errors import ConfigError
from dphr_infer.gallery import open_gallery
from dphr_infer.localizer import Localizer
from dphr_infer.matchers.open import open_matcher
from dphr_infer.preprocess import list_images


@pytest.fixture
def localizer(bundle: Bundle, gallery: Path) -> Iterator[Localizer]:
    opened = open_gallery(gallery)
    with open_engine(bundle) as engine, open_matcher(opened.embeddings) as matcher:
        yield Localizer(bundle, opened, engine, matcher)


def test_stages_and_the_whole_are_timed_equally_often_on_every_photo(bundle: Bundle, localizer: Localizer) -> None:
    samples = time_stages(localizer, list_images(bundle.folder / SELFTEST_IMAGES), seconds=0.05)
    assert list(samples) == [*STAGES, END_TO_END]
    assert len({len(values) for values in samples.values()}) == 1
    assert all((values > 0).all() for values in samples.values())


def test_the_stages_run_the_localizers_own_code(
    bundle: Bundle, localizer: Localizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each photo passes every stage of the localizer twice: alone and inside `locate`."""
    calls: list[str] = []
    for name in ("prepare", "embed", "match", "estimate"):
        original = getattr(Localizer, name)

        def counted(self: Localizer, *arguments: object, _name: str = name, _original: object = original) -> object:
            calls.append(_name)
            return _original(self, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(Localizer, name, counted)
    samples = time_stages(localizer, list_images(bundle.folder / SELFTEST_IMAGES), seconds=0)
    measured = 2 * len(samples[END_TO_END])
    assert {name: calls.count(name) for name in calls} == dict.fromkeys(
        ("prepare", "embed", "match", "estimate"), measured + cases.WARM_UP_CALLS
    )


def test_the_difference_is_the_median_of_the_whole_minus_the_sum_of_its_stages() -> None:
    samples = {stage: np.array([1.0, 1.0, 2.0]) for stage in STAGES}
    samples[END_TO_END] = np.array([6.0, 5.5, 100.0])
    assert difference_ms(samples) == pytest.approx(1.0)


def test_generated_rows_are_of_unit_length_and_the_same_every_time() -> None:
    rows = generate_rows(100, 16, "float32", seed=3)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(100), abs=1e-6)
    assert np.array_equal(rows, generate_rows(100, 16, "float32", seed=3))


def test_a_gallery_beyond_half_of_the_free_memory_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "available_memory_bytes", lambda: 1_000_000_000)
    with pytest.raises(ConfigError, match=r"takes 4\.0 GB, and 1\.0 GB are free"):
        generate_rows(1_000_000, 1000, "float32", seed=0)


def test_generated_matching_states_its_bytes_limit_and_share(machine: MachineProfile) -> None:
    single, _, half, _ = time_generated_matching(400, 16, 10, 0.01, machine, bandwidth=1e9)
    assert (single.read_bytes, half.read_bytes) == (400 * 16 * 4, 400 * 16 * 2)
    assert single.limit_ms == pytest.approx(0.0256)
    assert single.bandwidth_share == pytest.approx(0.0256 / single.latency.p50_ms)
    assert single.in_cache


def test_fewer_generated_rows_than_matches_are_refused(machine: MachineProfile) -> None:
    with pytest.raises(ConfigError, match="--match-rows is 5, but 10 matches"):
        time_generated_matching(5, 16, 10, 0.01, machine, bandwidth=1e9)
