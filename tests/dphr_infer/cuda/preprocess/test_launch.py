"""The launcher against a stand-in for the driver whose kernels run on this processor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import fake_pycuda
import numpy as np
import pytest
from preprocess_launches import reference

from dphr_infer.cuda import driver as cuda
from dphr_infer.cuda.driver import Cuda, open_cuda
from dphr_infer.cuda.preprocess.launch import DevicePreprocess
from dphr_infer.errors import EngineError, ImageError
from dphr_infer.images.frame_format import FrameFormat, nv12_frames, rgb_frames
from dphr_infer.images.preprocess import Preprocess

SMALL = Preprocess(20, 24)
RGB = rgb_frames(90, 70, 280)
NV12 = nv12_frames(90, 70, matrix="bt601", colour_range="limited", stride_bytes=96)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, preprocess_device: Any) -> Any:
    made = fake_pycuda.FakeDriver(cpu=preprocess_device)
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", made)
    monkeypatch.setattr(cuda, "pop_released_context", made.raw_stack.pop)
    return made


@contextmanager
def opened(layout: FrameFormat, max_frames: int = 2, **options: Any) -> Iterator[tuple[Cuda, DevicePreprocess]]:
    with open_cuda() as device, device.active():
        yield device, DevicePreprocess(device, b"image", layout, SMALL, max_frames, **options)


def fetch(device: Cuda, address: int, n: int) -> np.ndarray:
    images = np.zeros(n * SMALL.height_px * SMALL.width_px * 3, np.uint8)
    device.download(images, address)
    device.synchronize()
    return images.reshape(n, SMALL.height_px, SMALL.width_px, 3)


def random_frames(layout: FrameFormat, n: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (n, layout.frame_bytes), np.uint8))


@pytest.mark.parametrize("layout", [RGB, NV12], ids=["rgb", "nv12"])
@pytest.mark.parametrize("angles", [None, (90.0, -180.0)], ids=["upright", "turned"])
def test_frames_become_what_the_cpu_makes_of_them(layout: FrameFormat, angles: Any, driver: Any) -> None:
    with opened(layout, turned=angles is not None) as (device, launcher):
        for seed in (0, 1):  # another batch in the same memory
            frames = random_frames(layout, 2, seed)
            images = fetch(device, launcher.run(frames, angles), 2)
            for image, frame, angle in zip(images, frames, angles or (None, None), strict=True):
                np.testing.assert_array_equal(image, reference(frame, layout, SMALL, angle))
    assert not (driver.device_memory or driver.pinned or driver.retained)


def test_a_run_allocates_nothing_and_waits_for_nothing(driver: Any) -> None:
    with opened(RGB, turned=True) as (device, launcher):
        driver.calls.clear()
        launcher.run(random_frames(RGB, 1), [30.0])
        assert driver.calls == ["memcpy_htod_async", "memcpy_htod_async", "launch"]
        device.synchronize()
        room = device.allocate(RGB.padded_bytes, "a frame")
        driver.calls.clear()
        launcher.run_on_device(room.address, RGB.padded_bytes, 1, [31.0])
        assert driver.calls == ["memcpy_htod_async", "launch"]
    with opened(RGB) as (_, launcher):
        driver.calls.clear()
        launcher.run(random_frames(RGB, 2))
        assert driver.calls == ["memcpy_htod_async", "launch"]


@pytest.mark.parametrize("layout", [RGB, NV12], ids=["rgb", "nv12"])
def test_frames_that_lie_on_the_device_are_taken_from_there(layout: FrameFormat, driver: Any) -> None:
    frames = random_frames(layout, 2, 3)
    pitch = layout.padded_bytes + 17  # the second frame begins at no multiple of anything
    held = np.zeros((2, pitch), np.uint8)
    held[:, : layout.frame_bytes] = frames
    with opened(layout, uploads=False) as (device, launcher):
        room = device.allocate(held.nbytes + 16, "frames")
        device.upload(room.address, held)
        images = fetch(device, launcher.run_on_device(room.address, pitch, 2), 2)
        with pytest.raises(EngineError, match="uploads=True"):
            launcher.run(frames)
    for image, frame in zip(images, frames, strict=True):
        np.testing.assert_array_equal(image, reference(frame, layout, SMALL, None))


@pytest.mark.parametrize(
    ("frames", "angles", "error", "message"),
    [
        ([], None, ImageError, r"0 frames are given, but this launcher was opened for 1\.\.2"),
        ([np.zeros((70, 90, 3), np.uint8)] * 3, None, ImageError, "3 frames are given"),
        ([np.zeros((90, 70, 3), np.uint8)], None, ImageError, "70x90 px with 3 channels, but 90x70 px rgb were"),
        ([np.zeros(100, np.uint8)], None, ImageError, "has 100 bytes, but 90x70 px rgb needs 18900: it is truncated"),
        ([np.zeros((70, 90, 3), np.uint8)], [1.0], EngineError, "turned=False, but angles were given"),
    ],
)
def test_bad_frames_are_refused_before_the_gpu_is_asked(
    frames: Any, angles: Any, error: Any, message: str, driver: Any
) -> None:
    with opened(rgb_frames(90, 70)) as (_, launcher):
        driver.calls.clear()
        with pytest.raises(error, match=message):
            launcher.run(frames, angles)
        assert driver.calls == []


def test_angles_are_asked_for_one_a_frame_where_frames_are_turned(driver: Any) -> None:
    with opened(RGB, turned=True) as (_, launcher):
        with pytest.raises(EngineError, match="turned=True, but no angles were given"):
            launcher.run(random_frames(RGB, 1))
        with pytest.raises(EngineError, match="1 angles for 2 frames"):
            launcher.run(random_frames(RGB, 2), [1.0])
        with pytest.raises(ImageError, match="Frames lie 5 bytes apart"):
            launcher.run_on_device(0, 5, 1, [1.0])


@pytest.mark.parametrize("max_frames", [0, 65_536])
def test_a_number_of_frames_that_no_grid_has_is_refused(max_frames: int, driver: Any) -> None:
    with pytest.raises(EngineError, match=rf"max_frames is {max_frames}"), opened(RGB, max_frames):
        pass


def test_memory_that_does_not_suffice_is_named_with_both_sizes(driver: Any) -> None:
    driver.memory_bytes = 30_000
    with pytest.raises(EngineError, match=r"bytes free, but 39,\d+ are needed for 2 frames of 90x70 px"), opened(RGB):
        pass
    assert not (driver.device_memory or driver.pinned or driver.retained)


def test_a_gpu_that_shares_the_hosts_memory_reads_frames_where_they_are_staged(driver: Any) -> None:
    driver.integrated = True
    frame = random_frames(RGB, 1)[0]
    with opened(RGB) as (device, launcher):
        driver.calls.clear()
        address = launcher.run([frame])
        assert driver.calls == ["launch"]
        np.testing.assert_array_equal(fetch(device, address, 1)[0], reference(frame, RGB, SMALL, None))
        held = sum(map(len, driver.device_memory.values()))
    assert held < RGB.padded_bytes  # no copy of the frames on the device
    assert not (driver.device_memory or driver.mapped_memory or driver.pinned)
