"""A pipeline serves one thread at a time, from the first frame on its way to the last that comes back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dphr_infer.errors import EngineError
from dphr_infer.images.frame_format import rgb_frames
from dphr_infer.locate.gpu_pipeline import GpuPipeline


def refuse_other_threads(pipeline: GpuPipeline, image: np.ndarray, pool: ThreadPoolExecutor) -> None:
    """That every call from the pool's thread is refused, but for `drop`, which does nothing there."""
    for call in (
        lambda: pipeline.submit(image, 1),
        pipeline.collect,
        lambda: pipeline.match(image, 1),
        lambda: pipeline.stage_ms(image, 1),
        lambda: pipeline.frame_memory(rgb_frames(50, 50)),
    ):
        with pytest.raises(EngineError, match="in use by another thread"):
            pool.submit(call).result()
    pool.submit(pipeline.drop).result()


def test_a_second_thread_is_refused_while_a_call_runs_and_not_after(
    gpu: Any, bundle: Any, gallery: np.ndarray, texture: Any, monkeypatch: pytest.MonkeyPatch, assert_agree: Any
) -> None:
    image, waited, note = texture(50, 50), [], gpu.note

    def while_waiting(name: str) -> None:
        if name == "event synchronize":
            waited.append(name)
            refuse_other_threads(pipeline, image, pool)
        note(name)

    with GpuPipeline(bundle, gallery, "fp32") as pipeline, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(gpu, "note", while_waiting)
        first = pipeline.match(image, 1)
        assert waited == ["event synchronize"]
        monkeypatch.setattr(gpu, "note", note)
        assert_agree(pool.submit(pipeline.match, image, 1).result(), first)


def test_frames_on_their_way_are_their_threads_own_until_it_collects_or_drops_them(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any
) -> None:
    mine, theirs = texture(50, 50, 20), texture(50, 50, 21)
    with GpuPipeline(bundle, gallery, "fp32") as pipeline, ThreadPoolExecutor(1) as pool:
        pipeline.submit(mine, 3)
        refuse_other_threads(pipeline, theirs, pool)
        assert_agree(pipeline.collect(), expected(mine, 3))
        pool.submit(pipeline.submit, theirs, 3).result()
        with pytest.raises(EngineError, match="in use by another thread, which has 1 frames on their way"):
            pipeline.submit(mine, 3)
        pipeline.drop()  # of a thread that lives: left alone
        assert_agree(pool.submit(pipeline.collect).result(), expected(theirs, 3))
        pipeline.submit(mine, 3)
        pipeline.drop()
        assert_agree(pool.submit(pipeline.match, theirs, 3).result(), expected(theirs, 3))


def test_memory_lent_to_a_thread_is_not_lent_to_another(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any
) -> None:
    image = texture(50, 50, 22)
    with GpuPipeline(bundle, gallery, "fp32") as pipeline, ThreadPoolExecutor(1) as pool:
        memory = pipeline.frame_memory(rgb_frames(50, 50))
        memory[:] = image.reshape(-1)
        refuse_other_threads(pipeline, texture(50, 50, 23), pool)
        assert_agree(pipeline.match(memory.reshape(50, 50, 3), 3), expected(image, 3))
        pipeline.frame_memory(rgb_frames(50, 50))
        pipeline.drop()
        assert_agree(pool.submit(pipeline.match, image, 3).result(), expected(image, 3))


def test_what_a_thread_that_ended_left_on_its_way_can_be_dropped(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any
) -> None:
    image = texture(50, 50, 24)
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(pipeline.submit, texture(50, 50, 25), 3).result()
        with pytest.raises(EngineError, match="in use by another thread"):
            pipeline.match(image, 3)  # would be the second of two
        pipeline.drop()
        assert_agree(pipeline.match(image, 3), expected(image, 3))
