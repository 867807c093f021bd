from dataclasses import dataclass, field

import numpy as np
import pytest
from generated_map import ArrayMap, place, town

from dphr_infer.register.features import Features
from dphr_infer.register.map_features import BLOCK_PX, DENSITY, MARGIN_PX, MapFeatures
from dphr_infer.types import GeoPoint

GSD_M, SIDE_PX = 0.5, 700


@dataclass
class Dots:
    """A `FeatureExtractor` that finds white pixels, and describes each by the grey around it."""

    asked: list[tuple[tuple[int, ...], int, bool]] = field(default_factory=list)

    def extract(self, image: np.ndarray, seen: np.ndarray, most: int, upright: bool) -> Features:
        self.asked.append((image.shape, most, upright))
        rows, columns = np.nonzero((image[..., 0] > 250) & seen)
        points = np.stack([columns, rows], 1).astype(np.float32) + 0.5
        return Features(points, np.full(len(points), 3.0, np.float32), np.ones((len(points), 8), np.float32))


@pytest.fixture
def dotted() -> tuple[ArrayMap, np.ndarray]:
    """A map of white pixels on black, and their places in metres east and north of its middle."""
    draw = np.random.default_rng(4)
    image = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    flat = draw.choice(SIDE_PX * SIDE_PX, 900, replace=False)
    rows, columns = flat // SIDE_PX, flat % SIDE_PX
    # Some lie on both sides of the seams of blocks, which run through the map's middle and 256 pixels from there.
    middle = SIDE_PX // 2
    for seam in (middle - BLOCK_PX, middle, middle + BLOCK_PX):
        rows = np.append(rows, [seam - 1, seam, seam + 30, seam + 60])
        columns = np.append(columns, [seam + 20, seam + 40, seam - 1, seam])
    inside = (rows < SIDE_PX) & (columns < SIDE_PX)
    image[rows[inside], columns[inside]] = 255
    rows, columns = np.nonzero(image[..., 0])
    pixels = ArrayMap(image, GSD_M, GeoPoint(47.0, 8.0))
    return pixels, np.stack([columns + 0.5 - middle, middle - rows - 0.5], 1) * GSD_M


def sorted_points(points: np.ndarray) -> np.ndarray:
    rounded = np.round(points.astype(np.float64), 2) + 0.0
    return rounded[np.lexsort(rounded.T)]


@pytest.mark.parametrize("middle", [(0.0, 0.0), (37.25, -61.5), (-BLOCK_PX * GSD_M, BLOCK_PX * GSD_M)])
def test_each_feature_around_a_place_is_found_once_also_at_the_seams(dotted, middle: tuple[float, float]) -> None:
    pixels, dots = dotted
    found = MapFeatures(pixels, Dots()).around(place(pixels, *middle), 60.0, GSD_M, True)
    away = dots - middle
    expected = away[np.abs(away).max(1) <= 60.0]
    assert len(expected) > 50
    np.testing.assert_allclose(sorted_points(found.points), sorted_points(expected), atol=0.02)
    np.testing.assert_allclose(found.sizes, 3.0 * GSD_M)
    assert len(found.descriptors) == len(found.sizes) == len(found)


def test_the_same_features_are_seen_from_two_places_and_found_once(dotted) -> None:
    pixels, _ = dotted
    extractor = Dots()
    features = MapFeatures(pixels, extractor)
    here = features.around(place(pixels, 10.0, 10.0), 50.0, GSD_M, True)
    looked = len(extractor.asked)
    there = features.around(place(pixels, 20.0, -5.0), 50.0, GSD_M, True)
    assert len(extractor.asked) == pixels.views == looked == 4  # the four blocks about the middle
    ours, theirs = here.points + np.array([10.0, 10.0]), there.points + np.array([20.0, -5.0])

    def shared(points: np.ndarray) -> np.ndarray:
        return points[(np.abs(points - (15.0, 2.5)) < (44.9, 42.4)).all(1)]

    assert len(shared(ours)) > 40
    np.testing.assert_allclose(sorted_points(shared(ours)), sorted_points(shared(theirs)), atol=0.02)


def test_a_block_is_looked_at_with_its_margin_and_for_its_share_of_features(dotted) -> None:
    pixels, _ = dotted
    extractor = Dots()
    MapFeatures(pixels, extractor).around(place(pixels, 5.0, 5.0), 1.0, GSD_M, False)
    side = BLOCK_PX + 2 * MARGIN_PX
    assert extractor.asked == [((side, side, 3), -(-DENSITY * side * side // 1_000_000), False)]


def test_other_resolutions_and_turns_are_other_blocks(dotted) -> None:
    pixels, _ = dotted
    extractor = Dots()
    features = MapFeatures(pixels, extractor)
    for gsd_m, upright in ((GSD_M, True), (GSD_M, False), (2 * GSD_M, True), (GSD_M, True)):
        features.around(place(pixels, 5.0, 5.0), 1.0, gsd_m, upright)
    assert len(extractor.asked) == 3


def test_beyond_its_memory_the_block_that_was_not_asked_for_longest_is_forgotten(dotted) -> None:
    pixels, dots = dotted
    extractor = Dots()
    corners = [(5.0, 5.0), (-5.0, 5.0), (-5.0, -5.0)]  # a block each
    bytes_each = [_bytes_of(MapFeatures(pixels, Dots()), place(pixels, *corner)) for corner in corners]
    features = MapFeatures(pixels, extractor, memory_bytes=bytes_each[0] + bytes_each[1] + bytes_each[2] - 1)

    def ask(corner: tuple[float, float]) -> int:
        features.around(place(pixels, *corner), 1.0, GSD_M, True)
        return len(extractor.asked)

    first, second, third = corners
    assert [ask(first), ask(second), ask(first), ask(third)] == [1, 2, 2, 3]
    assert [ask(first), ask(third)] == [3, 3]
    assert ask(second) == 4
    # One block alone is kept however small the memory is, and the answer is the same.
    small = MapFeatures(pixels, Dots(), memory_bytes=1).around(place(pixels, 0.0, 0.0), 60.0, GSD_M, True)
    assert len(small) == (np.abs(dots).max(1) <= 60.0).sum()


def _bytes_of(features: MapFeatures, at: GeoPoint) -> int:
    """Of the block around a place, 128 m wide: a point is 2, a size 1 and a descriptor 8 numbers of 4 bytes."""
    pixels_m = BLOCK_PX * GSD_M
    found = features.around(at, 2 * pixels_m, GSD_M, True)
    east, north = (np.sign(value) for value in _east_north(features, at))
    points = found.points + _east_north(features, at)
    own = ((points * (east, north) >= 0) & (points * (east, north) < pixels_m)).all(1)
    return int(own.sum()) * 11 * 4


def _east_north(features: MapFeatures, at: GeoPoint) -> tuple[float, float]:
    pixels: ArrayMap = features._pixels
    x, y = pixels.to_px(at)
    return (x - SIDE_PX / 2) * GSD_M, (SIDE_PX / 2 - y) * GSD_M


def test_where_the_map_has_no_pixels_there_is_no_feature(dotted) -> None:
    pixels, _ = dotted
    extractor = Dots()
    features = MapFeatures(pixels, extractor)
    assert len(features.around(place(pixels, 5_000.0, 0.0), 50.0, GSD_M, True)) == 0
    assert not extractor.asked
    # Across the map's edge only those within it.
    edge = features.around(place(pixels, SIDE_PX / 2 * GSD_M, 0.0), 40.0, GSD_M, True)
    assert len(edge) and edge.points[:, 0].max() < 0


def test_real_features_of_neighbouring_blocks_are_those_of_one_picture() -> None:
    pytest.importorskip("cv2")
    from dphr_infer.register.features import SiftFeatures

    pixels = ArrayMap(town(SIDE_PX, 3), GSD_M, GeoPoint(47.0, 8.0))
    found = MapFeatures(pixels, SiftFeatures()).around(place(pixels, 0.0, 0.0), 40.0, GSD_M, True)
    view = pixels.view(pixels.centre, 320, 320, GSD_M)
    whole = SiftFeatures().extract(view.image, view.covered, 922, True)
    points = (whole.points - 160) * (GSD_M, -GSD_M)
    points = points[np.abs(points).max(1) < 40]
    nearest_m = np.abs(points[:, None] - found.points).max(2).min(1)
    assert len(points) > 100 and (nearest_m < 0.05).mean() > 0.9
    # None is there twice.
    gaps = np.abs(found.points[:, None] - found.points).max(2) + np.eye(len(found)) * 9
    same_size = np.abs(np.log(found.sizes[:, None] / found.sizes)) < 0.02
    assert ((gaps < 0.01) & same_size).sum() == 0
