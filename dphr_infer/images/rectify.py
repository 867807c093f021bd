"""A photo brought to the map's geometry: seen straight from above, north up, at a chosen scale.

The ground is taken as flat and level. What a pinhole camera at a known height, attitude and field of view sees of it is
then one homography, and one resampling turns the photo into a picture of the ground: what stands on the ground (walls,
trees) leans away from the camera as it did, what lies on it falls into place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dphr_infer.errors import ImageError

# A camera that looks less far down sees most of its picture too far away, and a degree of error moves it too much.
MAX_PITCH_DEG = -25.0
MIN_FOV_DEG, MAX_FOV_DEG = 2.0, 150.0
MAX_HEIGHT_M = 20_000.0


@dataclass(frozen=True, slots=True)
class CameraView:
    """How a pinhole camera looked at flat ground.

    Attributes:
        height_m: of the camera above the ground.
        pitch_deg: of the optical axis: -90 straight down, 0 at the horizon; below -90 it looks backwards.
        fov_deg: field of view across the picture's width.
        yaw_deg: compass direction of the optical axis, clockwise from true north; straight down, of the top edge.
        roll_deg: turn about the optical axis; positive where the picture's right side points below the horizon.

    Raises:
        ImageError: not finite; a pitch outside [-155, -25], a roll outside [-90, 90], a height that is not in
            (0, 20000], or a field of view outside [2, 150].
    """

    height_m: float
    pitch_deg: float
    fov_deg: float
    yaw_deg: float = 0.0
    roll_deg: float = 0.0

    def __post_init__(self) -> None:
        _check("height", self.height_m, 0.0, MAX_HEIGHT_M, "metres above the ground", open_below=True)
        _check("pitch", self.pitch_deg, -180 - MAX_PITCH_DEG, MAX_PITCH_DEG, "degrees, -90 straight down")
        _check("field of view", self.fov_deg, MIN_FOV_DEG, MAX_FOV_DEG, "degrees across the picture's width")
        _check("roll", self.roll_deg, -90.0, 90.0, "degrees")
        _check("yaw", self.yaw_deg, -360.0, 360.0, "degrees clockwise from north")

    def focal_px(self, width_px: int) -> float:
        """Focal length in pixels of a picture of that width."""
        return width_px / 2 / math.tan(math.radians(self.fov_deg) / 2)

    def gsd_m(self, width_px: int) -> float:
        """Metres of ground to a pixel in the middle of a picture of that width; the mean over both directions."""
        slant = math.sin(math.radians(-self.pitch_deg))  # in (0, 1]
        return self.height_m / slant / self.focal_px(width_px) / math.sqrt(slant)

    def camera_east_north_m(self) -> tuple[float, float]:
        """Where the camera hangs, in metres east and north of the ground in the middle of its picture."""
        back = self.height_m / math.tan(math.radians(self.pitch_deg))
        yaw = math.radians(self.yaw_deg)
        return back * math.sin(yaw), back * math.cos(yaw)

    def projection(self, width_px: int, height_px: int) -> NDArray[np.float64]:
        """Ground -> picture, float64 (3, 3).

        (x, y, z) = P @ (east, north, 1), metres from the ground in the middle of the picture; the pixel is (x/z, y/z),
        where (0, 0) is the outer corner of the first. Where z <= 0 the ground lies behind the camera.
        """
        yaw, pitch, roll = (math.radians(value) for value in (self.yaw_deg, self.pitch_deg, self.roll_deg))
        forward = np.array([math.cos(pitch) * math.sin(yaw), math.cos(pitch) * math.cos(yaw), math.sin(pitch)])
        level = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
        down = np.cross(forward, level)
        right, lower = (
            math.cos(roll) * level + math.sin(roll) * down,
            math.cos(roll) * down - math.sin(roll) * level,
        )
        east, north = self.camera_east_north_m()
        focal = self.focal_px(width_px)
        lens = np.array([[focal, 0, width_px / 2], [0, focal, height_px / 2], [0, 0, 1.0]])
        axes = lens @ np.stack([right, lower, forward])
        return np.column_stack([axes[:, 0], axes[:, 1], axes @ np.array([-east, -north, -self.height_m])])


def _check(name: str, value: float, low: float, high: float, unit: str, open_below: bool = False) -> None:
    if not low <= value <= high or (open_below and value == low):
        raise ImageError(
            f"The camera's {name} is {value:g}; expected {unit}, {'above' if open_below else 'from'} {low:g} to "
            f"{high:g}. Check its unit and sign, or locate the photo as it is: `rectify` off."
        )


@dataclass(frozen=True, slots=True, eq=False)
class GroundPicture:
    """The ground as a photo shows it, from straight above, north up.

    The pixel in row r and column c of a picture of h x w has its centre (c + 0.5 - w/2) * gsd_m east and
    (h/2 - r - 0.5) * gsd_m north of the ground in the middle of the photo.

    Attributes:
        image: uint8 (S, S, 3); black where the photo does not show the ground.
        seen: bool (S, S), whether it does.
        gsd_m: metres a pixel.
    """

    image: NDArray[np.uint8]
    seen: NDArray[np.bool_]
    gsd_m: float


def rectify(image: NDArray[np.uint8], view: CameraView, side_px: int, gsd_m: float) -> GroundPicture:
    """Bring a photo to a square of ground around the middle of its picture.

    A photo of more than twice that resolution is first reduced by a whole factor, averaging; then each pixel is read
    bilinearly at the place where the camera saw it, within one grey level of the loop over rays that the tests hold
    beside it.

    Args:
        image: uint8 (H, W, 3).
        view: of its camera.
        side_px, gsd_m: of the square.

    Raises:
        ImageError: the photo shows nothing of that square.
    """
    height, width = image.shape[:2]
    seen = seen_ground(view, width, height, side_px, gsd_m)
    if not seen.any():
        raise ImageError(f"The photo shows nothing of the {side_px * gsd_m:.0f} m around its middle: check its roll.")
    picture = Image.fromarray(image)
    factor = max(1, int(gsd_m / view.gsd_m(width)))
    if factor > 1:
        picture = picture.reduce(factor)
    matrix = np.diag([1 / factor, 1 / factor, 1.0]) @ view.projection(width, height) @ _to_ground(side_px, gsd_m)
    turned = picture.transform(
        (side_px, side_px), Image.Transform.PERSPECTIVE, tuple(_normal(matrix)[:8]), Image.Resampling.BILINEAR
    )
    pixels = np.array(turned)
    pixels[~seen] = 0
    return GroundPicture(pixels, seen, gsd_m)


def seen_ground(view: CameraView, width_px: int, height_px: int, side_px: int, gsd_m: float) -> NDArray[np.bool_]:
    """Which pixels of a square of ground a photo of that size shows, bool (side_px, side_px)."""
    matrix = view.projection(width_px, height_px) @ _to_ground(side_px, gsd_m)
    steps = np.arange(side_px) + 0.5
    x, y, z = (row[0] * steps + row[1] * steps[:, None] + row[2] for row in matrix)
    inside: NDArray[np.bool_] = (z > 0) & (x >= 0) & (y >= 0) & (x < width_px * z) & (y < height_px * z)
    return inside


def _to_ground(side_px: int, gsd_m: float) -> NDArray[np.float64]:
    """Pixels of the square -> metres east and north."""
    half = side_px / 2 * gsd_m
    return np.array([[gsd_m, 0, -half], [0, -gsd_m, half], [0, 0, 1.0]])


def _normal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nine values scaled so that the last is 1, as Pillow takes them."""
    values = matrix.ravel()
    # The camera's own plane may cross the square's corner: a hair beside it nothing is seen anyway.
    last = values[8] if abs(values[8]) > 1e-9 * np.abs(values).max() else 1e-9 * np.abs(values).max()
    scaled: NDArray[np.float64] = values / last
    return scaled
