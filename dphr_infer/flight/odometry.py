"""How far the ground below moved between two frames: from a velocity, or from the two pictures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import FlightError
from dphr_infer.flight.fix import Odometry

# Peak over the standard deviation of the correlation elsewhere, and over the next peak: below, it is no peak. Frames of
# maps that share no ground stayed below 15 σ (n = 787, of 128 px).
LEAST_PEAK, LEAST_LEAD = 15.0, 1.8
# Displacements beyond this share of a side leave too little that both frames show.
MOST_SHIFT = 0.45
_PEAK_PX = 3
_LEAST_SIDE_PX = 32
# Standard deviation of the place of a peak that is as sharp as can be. Interpolation errs by less than 0.1 px; the
# rest is for frames that are turned and scaled against each other by what attitude and height err between them.
_LEAST_SIGMA_PX = 0.2

Frame = NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float64]


def odometry_from_velocity(east_mps: float, north_mps: float, seconds: float, sigma_mps: float) -> Odometry:
    """Velocity over the ground times time.

    Args:
        east_mps, north_mps: mean velocity between the two frames.
        seconds: between them, above 0.
        sigma_mps: standard deviation of either component, an error that lasts over the whole time.

    Raises:
        FlightError: not finite, no time, or no σ.
    """
    if not (0 < seconds < math.inf and 0 < sigma_mps < math.inf):
        raise FlightError(f"Velocity over {seconds} s with σ {sigma_mps} m/s; expected both above 0 and finite.")
    return Odometry(east_mps * seconds, north_mps * seconds, np.eye(2) * (sigma_mps * seconds) ** 2)


def visual_odometry(before: Frame, after: Frame, gsd_m: float, scale_sigma: float = 0.05) -> Odometry | None:
    """Displacement of the ground point in the frames' middle, by phase correlation of two north-up top-down frames.

    Both are windowed (Hann) and whitened; the highest value of their correlation is the shift, refined by a parabola
    through its neighbours along each axis. The covariance is the peak's own second moment times (noise/peak)², at
    least (0.2 px)², and `scale_sigma` of the displacement along it: an error of height or field of view stretches all.

    Args:
        before, after: (H, W) or (H, W, 3), one shape, sides at least 32; north up, straight down, one scale.
        gsd_m: metres per pixel of both.
        scale_sigma: standard deviation of the scale, as a share.

    Returns:
        None where the correlation has no peak that stands out, or the frames share too little ground: motion is then
        not known, and nothing is guessed.

    Raises:
        FlightError: shapes differ or are too small, values are not finite, or the GSD is not above 0.
    """
    if before.shape != after.shape or before.ndim not in (2, 3) or min(before.shape[:2]) < _LEAST_SIDE_PX:
        raise FlightError(
            f"Frames of {before.shape} and {after.shape}; expected one shape, sides of at least {_LEAST_SIDE_PX} px."
        )
    if not (0 < gsd_m < math.inf and 0 <= scale_sigma < 1):
        raise FlightError(f"A GSD of {gsd_m} m and a scale σ of {scale_sigma}; expected above 0, and in [0, 1).")
    surface = _phase_correlation(_grey(before), _grey(after))
    found = _peak(surface)
    if found is None:
        return None
    shift, covariance = found
    # What moved right and down in the picture: the camera went left and up, which is west and north.
    east_m, north_m = -shift[0] * gsd_m, shift[1] * gsd_m
    turned = covariance * np.array([[1, -1], [-1, 1]]) * gsd_m**2
    along = np.array([east_m, north_m]) * scale_sigma
    return Odometry(east_m, north_m, turned + np.outer(along, along))


def _grey(frame: Frame) -> NDArray[np.float64]:
    values = np.asarray(frame, np.float64)
    values = values.mean(axis=2) if values.ndim == 3 else values
    if not np.isfinite(values).all():
        raise FlightError("A frame holds values that are not finite; expected pixels.")
    window = np.outer(np.hanning(values.shape[0] + 2)[1:-1], np.hanning(values.shape[1] + 2)[1:-1])
    # The weighted mean goes first: what is left of it would be a peak of the window itself, at no shift.
    centred: NDArray[np.float64] = (values - (values * window).sum() / window.sum()) * window
    return centred


def _phase_correlation(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, W), no shift in the middle at (H // 2, W // 2)."""
    product = np.fft.rfft2(after) * np.conj(np.fft.rfft2(before))
    size = np.abs(product)
    # Frequencies that neither picture holds are noise of rounding, which whitening would blow up.
    white = np.where(size > 1e-9 * max(float(size.max()), 1e-30), product / np.maximum(size, 1e-300), 0)
    # Pixels of a camera hold little near the highest frequencies but noise.
    rows, columns = np.fft.fftfreq(before.shape[0])[:, None], np.fft.rfftfreq(before.shape[1])[None]
    return np.fft.fftshift(np.fft.irfft2(white * np.exp(-((rows**2 + columns**2) / (2 * 0.15**2))), before.shape))


def _peak(surface: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Shift (x, y) in pixels and its covariance; None where no peak stands out."""
    height, width = surface.shape
    y, x = (int(i) for i in np.unravel_index(np.argmax(surface), surface.shape))
    middle_y, middle_x = height // 2, width // 2
    r = _PEAK_PX
    if abs(y - middle_y) > MOST_SHIFT * height or abs(x - middle_x) > MOST_SHIFT * width:
        return None
    box = np.s_[y - r : y + r + 1, x - r : x + r + 1]
    others = surface.copy()
    others[box] = 0
    noise = math.sqrt(float((others**2).sum()) / (surface.size - (2 * r + 1) ** 2))
    peak = float(surface[y, x])
    if noise == 0 or peak < LEAST_PEAK * noise or peak < LEAST_LEAD * float(others.max()):
        return None
    around = np.maximum(surface[box], 0.0)
    steps = np.arange(-r, r + 1.0)
    total = float(around.sum())
    mean = np.array([around.sum(axis=0) @ steps, around.sum(axis=1) @ steps]) / total
    across, down = steps - mean[0], steps - mean[1]
    mixed = float(down @ around @ across)
    moment = np.array([[around.sum(axis=0) @ across**2, mixed], [mixed, around.sum(axis=1) @ down**2]]) / total
    sub = np.array([_parabola(surface[y, x - 1 : x + 2]), _parabola(surface[y - 1 : y + 2, x])])
    covariance = moment * (noise / peak) ** 2 + np.eye(2) * _LEAST_SIGMA_PX**2
    return np.array([x - middle_x, y - middle_y]) + sub, covariance


def _parabola(values: NDArray[np.float64]) -> float:
    """Where the parabola through three values is highest, from the middle one, in [-0.5, 0.5]."""
    left, middle, right = (float(value) for value in values)
    bend = left - 2 * middle + right
    return 0.0 if bend >= 0 else max(-0.5, min(0.5, (left - right) / (2 * bend)))
