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
from dphr_infer.cuda.preprocess.plan import mode_of
from dphr_infer.errors import EngineError, ImageError
from dphr_infer.images.frame_format import FrameFormat, nv12_frames, rgb_frames
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.images.rectify import GroundSquare
from dphr_infer.types import CameraView

SMALL = Preprocess(20, 24)
SQUARE = GroundSquare(CameraView(60.0, -90.0, 60.0, 20.0), 24, 2.0)
TILTED = GroundSquare(CameraView(60.0, -50.0, 60.0, 200.0, 5.0), 24, 4.0)
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
def opened(layout: FrameFormat, **options: Any) -> Iterator[tuple[Cuda, DevicePreprocess]]:
    with open_cuda() as device, device.active():
        yield device, DevicePreprocess(device, b"image", layout, SMALL, **options)


def fetch(device: Cuda, address: int) -> np.ndarray:
    image = np.zeros(SMALL.height_px * SMALL.width_px * 3, np.uint8)
    device.download(image, address)
    device.synchronize()
    return image.reshape(SMALL.height_px, SMALL.width_px, 3)


def random_frame(layout: FrameFormat, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, layout.frame_bytes, np.uint8)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("layout", [RGB, NV12], ids=["rgb", "nv12"])
@pytest.mark.parametrize(
    "poses", [(None, None), (90.0, -180.0), (SQUARE, TILTED)], ids=["upright", "turned", "rectified"]
)
def test_frames_become_what_the_cpu_makes_of_them(layout: FrameFormat, poses: Any, ahead: bool, driver: Any) -> None:
    with opened(layout, mode=mode_of(poses[0])) as (device, launcher):
        for seed, pose in enumerate(poses):  # another frame in the same memory
            frame = random_frame(layout, seed)
            launcher.stage(frame, pose)
            if ahead:
                launcher.upload_ahead()
            image = fetch(device, launcher.launch() if ahead else launcher.enqueue())
            expected = reference(frame, layout, SMALL, pose).astype(int)
            assert np.abs(image - expected).max() <= (1 if isinstance(pose, GroundSquare) else 0)
    assert not (driver.device_memory or driver.pinned or driver.retained)


def test_a_frame_allocates_nothing_and_waits_for_nothing(driver: Any) -> None:
    for pose, copies in ((None, 1), (30.0, 2), (TILTED, 2)):
        with opened(RGB, mode=mode_of(pose)) as (_, launcher):
            driver.calls.clear()
            launcher.stage(random_frame(RGB), pose)
            launcher.enqueue()
            assert driver.calls == [*["memcpy_htod_async"] * copies, "launch"]


@pytest.mark.parametrize(
    ("frame", "angle", "error", "message"),
    [
        (np.zeros((90, 70, 3), np.uint8), None, ImageError, "70x90 px with 3 channels, but 90x70 px rgb were"),
        (np.zeros(100, np.uint8), None, ImageError, "has 100 bytes, but 90x70 px rgb needs 18900: it is truncated"),
        (
            np.zeros((70, 90, 3), np.uint8),
            1.0,
            EngineError,
            "for frames that are upright, but what is given is for turned ones",
        ),
    ],
)
def test_bad_frames_are_refused_before_the_gpu_is_asked(
    frame: Any, angle: Any, error: Any, message: str, driver: Any
) -> None:
    with opened(rgb_frames(90, 70)) as (_, launcher):
        driver.calls.clear()
        with pytest.raises(error, match=message):
            launcher.stage(frame, angle)
        assert driver.calls == []


def test_an_angle_is_asked_for_where_frames_are_turned(driver: Any) -> None:
    refused = pytest.raises(EngineError, match="for frames that are turned, but what is given is for upright ones")
    with opened(RGB, mode="turned") as (_, launcher), refused:
        launcher.stage(random_frame(RGB))


def test_memory_that_does_not_suffice_is_named_with_both_sizes(driver: Any) -> None:
    driver.memory_bytes = 15_000
    with pytest.raises(EngineError, match=r"bytes free, but 19,\d+ are needed for a frame of 90x70 px"), opened(RGB):
        pass
    assert not (driver.device_memory or driver.pinned or driver.retained)


def test_a_gpu_that_shares_the_hosts_memory_reads_frames_where_they_are_staged(driver: Any) -> None:
    driver.integrated = True
    frame = random_frame(RGB)
    with opened(RGB) as (device, launcher):
        driver.calls.clear()
        launcher.stage(frame)
        address = launcher.enqueue()
        assert driver.calls == ["launch"]
        np.testing.assert_array_equal(fetch(device, address), reference(frame, RGB, SMALL, None))
        held = sum(map(len, driver.device_memory.values()))
    assert held < RGB.padded_bytes  # no copy of the frame on the device
    assert not (driver.device_memory or driver.mapped_memory or driver.pinned)
