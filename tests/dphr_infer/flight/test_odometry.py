from __future__ import annotations

import math

import numpy as np
import pytest

from dphr_infer.errors import FlightError
from dphr_infer.flight.fix import Odometry
from dphr_infer.flight.odometry import odometry_from_velocity, visual_odometry


def ground(seed: int = 0, side: int = 640) -> np.ndarray:
    """A picture with detail at every scale, uint8 (side, side)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / (np.hypot(rows, columns) + 0.01)
    values = np.fft.irfft2(spectrum, (side, side))
    return np.clip(128 + 40 * values / values.std(), 0, 255).astype(np.uint8)


GROUND = ground()


def view(x: int, y: int, side: int = 160, of: np.ndarray = GROUND) -> np.ndarray:
    return of[y : y + side, x : x + side]


def test_the_camera_that_goes_right_and_up_goes_east_and_north() -> None:
    found = visual_odometry(view(100, 100), view(112, 93), gsd_m=0.5)
    assert found is not None
    assert (found.east_m, found.north_m) == pytest.approx((6.0, 3.5), abs=0.1)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0), (2, 3), (33, -17), (-70, 10)])
def test_fractions_of_a_pixel_are_measured(x: int, y: int) -> None:
    """Pictures at a quarter of the resolution, moved by quarters of a pixel, with noise and other light."""
    rng = np.random.default_rng(5)

    def coarse(left: int, top: int) -> np.ndarray:
        return view(left, top, 400).reshape(100, 4, 100, 4).mean(axis=(1, 3)) + rng.normal(0, 3, (100, 100))

    found = visual_odometry(coarse(120, 120), 0.6 * coarse(120 + x, 120 + y) + 30, gsd_m=2.0)
    assert found is not None
    error = np.array([found.east_m - x / 4 * 2, found.north_m + y / 4 * 2])
    assert np.abs(error).max() < 0.3 * 2
    assert error @ np.linalg.solve(found.covariance, error) < 13.8


def test_the_covariance_grows_along_the_motion_by_the_scale_and_with_noise() -> None:
    sure = visual_odometry(view(100, 100), view(140, 100), 1.0, scale_sigma=0.0)
    unsure = visual_odometry(view(100, 100), view(140, 100), 1.0, scale_sigma=0.1)
    assert sure is not None and unsure is not None
    assert unsure.covariance - sure.covariance == pytest.approx(np.diag([16.0, 0.0]), abs=0.3)
    assert np.linalg.eigvalsh(sure.covariance)[0] >= 0.2**2 * 0.999
    rng = np.random.default_rng(0)
    noisy = visual_odometry(
        view(100, 100) + rng.normal(0, 25, (160, 160)), view(140, 100) + rng.normal(0, 25, (160, 160)), 1.0, 0.0
    )
    assert noisy is not None and np.trace(noisy.covariance) > np.trace(sure.covariance)


def test_colour_frames_are_measured_by_their_grey() -> None:
    before, after = (np.repeat(view(x, 100)[..., None], 3, axis=2) for x in (100, 109))
    found = visual_odometry(before, after, 1.0)
    assert found is not None and found.east_m == pytest.approx(9, abs=0.1)


def test_no_motion_is_told_where_the_correlation_has_no_peak() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((160, 160), 90, np.uint8)
    for before, after in [
        (flat, flat),
        (view(100, 100), flat),
        (view(0, 0), view(400, 400)),
        (view(100, 100), view(100, 100, of=ground(1))),
        *[(rng.normal(size=(160, 160)), rng.normal(size=(160, 160))) for _ in range(20)],
    ]:
        assert visual_odometry(before, after, 1.0) is None


@pytest.mark.parametrize(
    ("before", "after", "gsd_m", "words"),
    [
        (view(0, 0), view(0, 0, 100), 1.0, "expected one shape"),
        (view(0, 0, 16), view(0, 0, 16), 1.0, "at least 32 px"),
        (view(0, 0), view(0, 0), 0.0, "A GSD of 0.0 m"),
        (view(0, 0) * np.nan, view(0, 0) * np.nan, 1.0, "not finite"),
    ],
)
def test_frames_that_cannot_be_compared_are_refused(
    before: np.ndarray, after: np.ndarray, gsd_m: float, words: str
) -> None:
    with pytest.raises(FlightError, match=words):
        visual_odometry(before, after, gsd_m)


def test_velocity_times_time() -> None:
    found = odometry_from_velocity(3.0, -4.0, 2.0, 0.5)
    assert (found.east_m, found.north_m, found.distance_m) == (6.0, -8.0, 10.0)
    assert found.covariance.tolist() == [[1, 0], [0, 1]]
    for seconds, sigma in [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (math.inf, 1.0)]:
        with pytest.raises(FlightError, match="expected both above 0"):
            odometry_from_velocity(1.0, 1.0, seconds, sigma)


@pytest.mark.parametrize(
    ("east_m", "covariance", "words"),
    [
        (math.nan, np.eye(2), "expected finite"),
        (1.0, np.eye(3), "expected 2 x 2"),
        (1.0, np.array([[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (1.0, np.array([[1.0, 2.0], [2.0, 1.0]]), "no variance below 0"),
        (1.0, np.full((2, 2), math.inf), "finite numbers in m²"),
    ],
)
def test_a_motion_that_is_none_is_refused(east_m: float, covariance: np.ndarray, words: str) -> None:
    with pytest.raises(FlightError, match=words):
        Odometry(east_m, 0.0, covariance)
