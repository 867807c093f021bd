"""The whole pipeline without a GPU: both kernels run on this processor, ONNX Runtime is the network.

What the frames become is compared with the CPU's path: Preprocess, rotate_square, ONNX Runtime, the plain matcher.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dphr_infer.cuda.topk import launch as topk_launch
from dphr_infer.errors import EngineError, GalleryError, ImageError
from dphr_infer.images.frame_format import nv12_frames, rgb_frames, to_rgb
from dphr_infer.locate import gpu_pipeline
from dphr_infer.locate.gpu_pipeline import GpuPipeline

pytestmark = pytest.mark.kernels

RANGES = [(3, 40), (40, 41), (77, 120)]


def test_frames_of_two_sizes_turned_or_not_become_the_cpus_matches_directly_and_by_graph(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any
) -> None:
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        for seed in range(3):
            for shape, degrees in (((70, 90), None), ((64, 48), None), ((70, 90), 37.0 + seed), ((70, 90), 90.0)):
                image = texture(*shape, seed)
                assert_agree(pipeline.match(image, 5, degrees), expected(image, 5, degrees))
    # Sizes: 90x70 upright, 48x64 upright, 90x70 turned (which comes twice a round): 2 + 2 + 5 of 12 by graph.
    assert gpu.graphs.launches == 9
    assert gpu.graphs.open == 0
    assert not (gpu.device_memory or gpu.pinned or gpu.retained or gpu.raw_stack or gpu.own_stack)


def test_a_prior_and_a_large_k_reach_the_scan(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any
) -> None:
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        for seed in range(3):
            image = texture(50, 50, seed)
            assert_agree(pipeline.match(image, 32, row_ranges=RANGES), expected(image, 32, ranges=RANGES))
            moved = [(start + seed, stop + seed) for start, stop in RANGES[:2]]  # as many rows, at other places
            assert_agree(pipeline.match(image, 3, row_ranges=moved), expected(image, 3, ranges=moved))


def test_a_prior_of_more_ranges_than_there_is_room_for_is_matched_also_while_another_frame_is_on_its_way(
    gpu: Any,
    bundle: Any,
    gallery: np.ndarray,
    expected: Any,
    texture: Any,
    assert_agree: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topk_launch, "FIRST_RANGES", 2)
    few, many = [(0, 60)], [(start, start + 1) for start in range(0, 120, 2)]  # 60 rows each
    images = [texture(50, 50, seed) for seed in range(6)]
    priors = [few, few, few, many, many, few]
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        pipeline.submit(images[0], 3, None, priors[0])
        found = []
        for image, ranges in zip(images[1:], priors[1:], strict=True):
            pipeline.submit(image, 3, None, ranges)
            found.append(pipeline.collect())
        found.append(pipeline.collect())
    for image, ranges, matches in zip(images, priors, found, strict=True):
        assert_agree(matches, expected(image, 3, ranges=ranges))
    assert gpu.graphs.launches > 0 and not gpu.device_memory


def test_an_nv12_frame_is_matched_as_its_rgb(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, assert_agree: Any
) -> None:
    layout = nv12_frames(96, 80, matrix="bt709", colour_range="full")
    frame = np.random.default_rng(3).integers(0, 256, layout.frame_bytes, np.uint8)
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        for _ in range(2):
            assert_agree(pipeline.match(frame, 4, frame=layout), expected(to_rgb(frame, layout), 4))


def test_a_frame_allocates_nothing_once_its_size_is_known(
    gpu: Any, bundle: Any, gallery: np.ndarray, texture: Any
) -> None:
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        for seed in range(2):
            pipeline.match(texture(70, 90, seed), 5)
        gpu.calls.clear()
        pipeline.match(texture(70, 90, 9), 5)
        beside = ["memcpy_htod_async", "Event", "wait_for_event"]
        assert gpu.calls == [*beside, "Event", "event synchronize"]


def test_two_frames_on_their_way_come_back_in_order_whatever_their_size_prior_and_angle(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any
) -> None:
    jobs = [
        (texture(*shape, seed), 3 + seed % 2, degrees, ranges)
        for seed, (shape, degrees, ranges) in enumerate(
            [
                ((70, 90), None, None),
                ((70, 90), None, None),
                ((70, 90), None, RANGES),
                ((64, 48), None, RANGES),
                ((70, 90), 20.0, [(0, 50)]),
                ((70, 90), 50.0, [(1, 51)]),
            ]
            * 3
        )
    ]
    found = []
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        pipeline.submit(*jobs[0])
        for job in jobs[1:]:
            pipeline.submit(*job)
            found.append(pipeline.collect())
        found.append(pipeline.collect())
        for (image, k, degrees, ranges), matches in zip(jobs, found, strict=True):
            assert_agree(matches, expected(image, k, degrees, ranges))
        with pytest.raises(EngineError, match="No frame was submitted"):
            pipeline.collect()
        pipeline.submit(*jobs[0])
        with pytest.raises(EngineError, match="1 submitted frames are on their way: collect them first"):
            pipeline.match(*jobs[1])
        pipeline.submit(*jobs[1])
        with pytest.raises(EngineError, match="2 submitted frames are on their way: collect one first"):
            pipeline.submit(*jobs[2])
    assert gpu.graphs.launches > 0 and not gpu.device_memory and gpu.retained == 0


def test_frames_written_into_the_pipelines_memory_are_not_copied_on_the_host(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any
) -> None:
    layout = rgb_frames(90, 70)
    first, second, third = (texture(70, 90, seed) for seed in (300, 301, 302))
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:

        def submit_without_a_copy(memory: np.ndarray, *arguments: Any) -> None:
            for opened in pipeline._formats.values():
                opened._staged.flags.writeable = False  # a copy would raise
            pipeline.submit(memory, *arguments)
            for opened in pipeline._formats.values():
                opened._staged.flags.writeable = True

        one = pipeline.frame_memory(layout)
        one[:] = first.reshape(-1)
        submit_without_a_copy(one.reshape(70, 90, 3), 3)
        other = pipeline.frame_memory(layout)
        assert not np.shares_memory(one, other)  # the first frame's is the GPU's now
        other[:] = second.reshape(-1)
        submit_without_a_copy(other, 3, None, None, layout)
        with pytest.raises(EngineError, match="2 submitted frames are on their way"):
            pipeline.frame_memory(layout)
        assert_agree(pipeline.collect(), expected(first, 3))
        assert_agree(pipeline.collect(), expected(second, 3))
        # A frame from elsewhere goes into the same memory, and memory of an earlier frame is one like any other.
        assert_agree(pipeline.match(third, 3), expected(third, 3))
        assert_agree(pipeline.match(other.reshape(70, 90, 3), 3), expected(second, 3))
        # What was lent before a frame was collected is where the next one goes.
        pipeline.submit(third, 3)
        late = pipeline.frame_memory(layout)
        late[:] = first.reshape(-1)
        assert_agree(pipeline.collect(), expected(third, 3))
        submit_without_a_copy(late, 3, None, None, layout)
        assert_agree(pipeline.collect(), expected(first, 3))


def test_bytes_without_their_meaning_are_refused(
    gpu: Any, bundle: Any, gallery: np.ndarray, texture: Any, assert_agree: Any
) -> None:
    layout, image = rgb_frames(90, 70), texture(70, 90)
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        memory = pipeline.frame_memory(layout)
        memory[:] = image.reshape(-1)
        for call in (pipeline.match, pipeline.submit, pipeline.stage_ms):
            with pytest.raises(ImageError, match=r"an array \(18900,\), not a picture \(H, W, 3\): give frame="):
                call(memory, 3)
        assert_agree(pipeline.match(memory, 3, frame=layout), pipeline.match(image, 3))


def test_on_a_gpu_that_shares_memory_nothing_copies_a_frame_written_there(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any
) -> None:
    gpu.integrated = True
    layout = rgb_frames(90, 70)
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        for seed in range(310, 314):
            gpu.calls.clear()
            image = texture(70, 90, seed)
            memory = pipeline.frame_memory(layout)
            memory[:] = image.reshape(-1)
            assert_agree(pipeline.match(memory, 3, frame=layout), expected(image, 3))
        assert "memcpy_htod_async" not in gpu.calls and "event synchronize" in gpu.calls


def test_the_next_frames_copy_does_not_wait_for_this_ones_work(
    gpu: Any, bundle: Any, gallery: np.ndarray, texture: Any
) -> None:
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        for _ in range(2):
            pipeline.submit(texture(70, 90), 1)
            pipeline.submit(texture(70, 90), 1)
            pipeline.collect()
            pipeline.collect()
        pipeline.submit(texture(70, 90), 1)
        waiting = len(gpu.stream.waiting)
        gpu.calls.clear()
        pipeline.submit(texture(70, 90), 1)
        assert "synchronize" not in gpu.calls and len(gpu.stream.waiting) > waiting > 0
        pipeline.collect()
        pipeline.collect()


def test_the_stages_are_timed_by_events(gpu: Any, bundle: Any, gallery: np.ndarray, texture: Any) -> None:
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        # The stand-in's events are 0.25 ms apart.
        assert pipeline.stage_ms(texture(50, 50), 2) == dict.fromkeys(gpu_pipeline.STAGES, 0.25)


def test_two_pipelines_live_side_by_side(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any
) -> None:
    first, second = texture(70, 90, 1), texture(60, 60, 2)
    with GpuPipeline(bundle, gallery, "fp32") as one:
        stream = gpu.stream
        with GpuPipeline(bundle, gallery[:50], "fp32") as two:
            assert_agree(two.match(second, 2), expected(second, 2, ranges=[(0, 50)]))
        gpu.stream = stream
        assert_agree(one.match(first, 2), expected(first, 2))
    assert not gpu.device_memory and gpu.retained == 0


@pytest.mark.parametrize(
    ("k", "ranges", "message"),
    [(0, None, "k"), (33, None, "k|33"), (3, [(0, 2)], "2"), (1, [(5, 500)], "500")],
)
def test_what_no_scan_can_answer_is_refused(
    gpu: Any, bundle: Any, gallery: np.ndarray, texture: Any, k: int, ranges: Any, message: str
) -> None:
    with GpuPipeline(bundle, gallery, "fp32") as pipeline, pytest.raises(GalleryError, match=message):
        pipeline.match(texture(50, 50), k, row_ranges=ranges)
    assert gpu.retained == 0


@pytest.mark.parametrize("max_k", [0, 1025, 2000])
def test_more_matches_than_a_kernel_keeps_are_refused_before_the_gpu_is_touched(
    gpu: Any, bundle: Any, gallery: np.ndarray, max_k: int
) -> None:
    with pytest.raises(EngineError, match=f"max_k is {max_k}; the GPU's kernels take 1..1024"):
        GpuPipeline(bundle, gallery, "fp32", max_k)
    assert gpu.calls == []


def test_the_stages_take_no_more_matches_than_the_pipeline_was_opened_for(
    gpu: Any, bundle: Any, gallery: np.ndarray, texture: Any
) -> None:
    with GpuPipeline(bundle, gallery, "fp32") as pipeline, pytest.raises(GalleryError, match=r"opened for 1..32"):
        pipeline.stage_ms(texture(50, 50), 33)


@pytest.mark.parametrize("degrees", [math.nan, math.inf])
def test_an_angle_that_is_none_is_refused_and_the_next_frame_is_matched(
    gpu: Any, bundle: Any, gallery: np.ndarray, expected: Any, texture: Any, assert_agree: Any, degrees: float
) -> None:
    image = texture(70, 90)
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        with pytest.raises(ImageError, match=f"turned by {degrees} degrees, which is no angle"):
            pipeline.match(image, 3, degrees)
        assert_agree(pipeline.match(image, 3, 20.0), expected(image, 3, 20.0))


def test_a_ninth_frame_size_is_refused(gpu: Any, bundle: Any, gallery: np.ndarray, texture: Any) -> None:
    with GpuPipeline(bundle, gallery, "fp32") as pipeline:
        for side in range(40, 48):
            pipeline.match(texture(side, side), 1)
        with pytest.raises(EngineError, match=r"Frames of 8 formats have come .*, and one of 48x48 px"):
            pipeline.match(texture(48, 48), 1)


def test_a_gallery_of_another_length_is_refused_before_the_gpu_is_touched(gpu: Any, bundle: Any) -> None:
    with pytest.raises(GalleryError, match="rows have 40 values, the bundle's embeddings 48"):
        GpuPipeline(bundle, np.ones((3, 40), np.float16), "fp32")
    assert gpu.calls == []
