import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_rectify import rectified

from dphr_infer.errors import ConfigError, ImageError
from dphr_infer.images.rectify import GroundSquare, projection, rectify
from dphr_infer.types import CameraView

DOWN = CameraView(100.0, -90.0, 90.0)


def seen_at(view: CameraView, size: tuple[int, int], east_m: float, north_m: float) -> tuple[float, float]:
    x, y, z = projection(view, *size) @ (east_m, north_m, 1.0)
    assert z > 0
    return x / z, y / z


@settings(max_examples=15)
@given(
    view=st.builds(
        CameraView,
        height_m=st.floats(5, 500),
        pitch_deg=st.floats(-150, -30),
        fov_deg=st.floats(15, 120),
        yaw_deg=st.floats(-360, 360),
        roll_deg=st.floats(-90, 90),
    ),
    size=st.tuples(st.integers(12, 40), st.integers(12, 40)),
    side_px=st.integers(8, 20),
    zoom=st.floats(0.4, 4.5),
    seed=st.integers(0, 99),
)
def test_a_rectified_photo_is_the_loop_over_rays_within_a_level_or_two(view, size, side_px, zoom, seed) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    gsd_m = zoom * view.gsd_m(size[1])
    found = rectify(image, view, side_px, gsd_m)
    factor = max(1, int(gsd_m / view.gsd_m(size[1])))
    expected, seen, edge_px = rectified(image, dataclasses.asdict(view), side_px, gsd_m, factor)
    sure = edge_px > 1e-6
    np.testing.assert_array_equal(found.seen[sure], seen[sure])
    # Pillow cuts off fractions: once where it interpolates, and once more where it reduces first.
    levels = 1 if factor == 1 else 2
    assert np.abs(found.image - expected)[sure].max(initial=0) <= levels + 1e-6
    assert found.gsd_m == gsd_m and not found.image[~found.seen].any()


def test_straight_down_a_pixel_is_as_far_as_similar_triangles_say() -> None:
    # 90 degrees across 200 pixels: the focal length is 100 pixels, and from 100 m a metre is a pixel.
    assert DOWN.focal_px(200) == pytest.approx(100.0) and DOWN.gsd_m(200) == pytest.approx(1.0)
    assert DOWN.camera_east_north_m() == pytest.approx((0.0, 0.0), abs=1e-9)
    assert seen_at(DOWN, (200, 120), 0.0, 0.0) == pytest.approx((100.0, 60.0))
    assert seen_at(DOWN, (200, 120), 30.0, 20.0) == pytest.approx((130.0, 40.0))
    east_up = dataclasses.replace(DOWN, yaw_deg=90.0)
    assert seen_at(east_up, (200, 120), 30.0, 20.0) == pytest.approx((80.0, 30.0))
    # From twice the height a pixel is two metres.
    assert dataclasses.replace(DOWN, height_m=200.0).gsd_m(200) == pytest.approx(2.0)


def test_at_45_degrees_the_camera_hangs_its_height_behind_the_middle_of_its_picture() -> None:
    view = CameraView(100.0, -45.0, 90.0, yaw_deg=90.0)
    assert view.camera_east_north_m() == pytest.approx((-100.0, 0.0), abs=1e-9)
    # The way to the ground is 141 m; across it a pixel is 1.41 m, along it 2 m, the geometric mean 1.68 m.
    assert view.gsd_m(200) == pytest.approx(math.sqrt(math.sqrt(2) * 2))
    # Below the camera the ray is 45 degrees off the axis: the middle of the lower edge of a square picture.
    assert seen_at(view, (200, 200), -100.0, 0.0) == pytest.approx((100.0, 200.0))
    # 141 m to the south of the middle (right of a look to the east): the right edge.
    assert seen_at(view, (200, 200), 0.0, -100 * math.sqrt(2)) == pytest.approx((200.0, 100.0))


def test_beyond_straight_down_the_camera_has_passed_what_it_sees() -> None:
    assert CameraView(100.0, -135.0, 60.0).camera_east_north_m() == pytest.approx((0.0, 100.0))


def test_a_positive_roll_points_the_right_side_below_the_horizon() -> None:
    # Of a look to the north at 45 degrees the ground ahead is up; a quarter roll to the right brings it to the left.
    view = CameraView(100.0, -45.0, 90.0, roll_deg=90.0)
    x, y = seen_at(view, (200, 200), 0.0, 50.0)
    assert x < 95 and y == pytest.approx(100.0)


def test_a_camera_upside_down_is_the_same_view_the_right_way_up() -> None:
    # What metadata say as roll 180 is described by half a turn of yaw and the pitch past straight down.
    turned = CameraView(100.0, -180.0 + 60.0, 70.0, yaw_deg=180.0)
    x, y = seen_at(CameraView(100.0, -60.0, 70.0), (200, 100), 20.0, 10.0)
    assert seen_at(turned, (200, 100), 20.0, 10.0) == pytest.approx((200 - x, 100 - y))


def test_ground_behind_the_camera_and_beside_the_picture_is_black_and_unseen() -> None:
    view = CameraView(50.0, -40.0, 60.0)
    image = np.full((60, 80, 3), 255, np.uint8)
    found = rectify(image, view, 64, 8.0)
    z = np.array([(projection(view, 80, 60) @ (0.0, (32 - row - 0.5) * 8.0, 1.0))[2] for row in range(64)])
    assert (z < 0).any() and not found.seen[z < 0].any()
    assert found.seen[32, 32] and 0 < found.seen.mean() < 0.5
    assert (found.image[found.seen] >= 254).all() and not found.image[~found.seen].any()
    spans = GroundSquare(view, 64, 8.0).spans(80, 60)
    assert [row.sum() for row in found.seen] == (spans[:, 1] - spans[:, 0]).tolist()


def test_a_fine_photo_is_averaged_not_sampled() -> None:
    # A chessboard of single pixels seen at a twentieth of its resolution is grey.
    chess = np.repeat(((np.indices((400, 400)).sum(0) % 2) * 255)[..., None], 3, axis=2).astype(np.uint8)
    found = rectify(chess, DOWN, 16, 20 * DOWN.gsd_m(400) * 0.5)
    assert found.seen.all() and np.abs(found.image.astype(int) - 127).max() <= 2


def test_a_photo_of_less_than_a_pixel_of_the_square_is_refused_with_its_height() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    with pytest.raises(ImageError, match=r"shows nothing of the 50 m .* 0\.05 m"):
        rectify(image, CameraView(0.05, -90.0, 60.0), 32, 50 / 32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"height_m": 0.0}, "height is 0; expected metres above the ground, above 0 to 20000"),
        ({"height_m": -30.0}, "height is -30"),
        ({"height_m": 25_000.0}, "height is 25000"),
        ({"height_m": math.nan}, "height is nan"),
        ({"pitch_deg": 0.0}, "pitch is 0; expected degrees, -90 straight down, from -155 to -25"),
        ({"pitch_deg": -1.57}, "pitch is -1.57"),
        ({"pitch_deg": 90.0}, "pitch is 90"),
        ({"pitch_deg": -170.0}, "pitch is -170"),
        ({"fov_deg": 0.0}, "field of view is 0; expected degrees across the picture's width, from 2 to 150"),
        ({"fov_deg": 180.0}, "field of view is 180"),
        ({"roll_deg": 180.0}, "roll is 180"),
        ({"yaw_deg": math.inf}, "yaw is inf"),
    ],
)
def test_a_view_that_no_camera_has_of_the_ground_is_refused_by_name(changed: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(DOWN, **changed)
