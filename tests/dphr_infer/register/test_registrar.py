import dataclasses
import math
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from generated_map import ArrayMap, place, town

from dphr_infer.errors import ConfigError, MissingPackageError
from dphr_infer.geo import distance_m, east_north_m, offset
from dphr_infer.images.attitude import attitude_of
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.register.features import Features
from dphr_infer.register.map_features import BLOCK_PX, DENSITY, MARGIN_PX
from dphr_infer.register.registrar import Registrar, Registration, _leaning_m
from dphr_infer.register.settings import RegisterSettings
from dphr_infer.types import Attitude, CameraView, GeoPoint

pytest.importorskip("cv2")

GSD_M, TILE_M, SIDE_PX = 0.5, 60.0, 900
MIDDLE = GeoPoint(47.0, 8.0)
SIZE = (480, 360)  # width and height of the photos
TRUE = (24.3, -17.8)  # of the ground in their middle, in metres east and north of the map's
NEAR = (40.0, -5.0)  # where retrieval has it
PLACES = (NEAR, (-120.0, 100.0), (46.0, -5.0), (130.0, -130.0))
# Across 480 pixels some 120 m: finer than the map.
DOWN = CameraView(100.0, -90.0, 60.0, 35.0, 2.0)


@pytest.fixture(scope="module")
def pixels() -> ArrayMap:
    return ArrayMap(town(SIDE_PX, 1), GSD_M, MIDDLE)


@pytest.fixture(scope="module")
def elsewhere() -> ArrayMap:
    return ArrayMap(town(SIDE_PX, 2), GSD_M, MIDDLE)


@pytest.fixture(scope="module")
def registrar(pixels: ArrayMap) -> Registrar:
    return Registrar(pixels, TILE_M)


def known(view: CameraView) -> Attitude:
    return Attitude(view, {})


def photo_of(pixels: ArrayMap, view: CameraView) -> np.ndarray:
    return pixels.photo(place(pixels, *TRUE), view, *SIZE)


def laid(registrar: Registrar, image: np.ndarray, attitude: Attitude) -> Registration | None:
    return registrar.register(image, attitude, [offset(MIDDLE, *spot) for spot in PLACES])


def error_m(found: Registration) -> tuple[float, float]:
    (east,), (north,) = east_north_m(
        MIDDLE, np.array([found.point.latitude_deg]), np.array([found.point.longitude_deg])
    )
    return float(east) - TRUE[0], float(north) - TRUE[1]


def assert_placed(found: Registration | None, within_m: float = GSD_M) -> None:
    assert found is not None and found.verified and found.refused == "" and found.log10_nfa < -8
    east, north = error_m(found)
    assert math.hypot(east, north) < within_m
    east2, both, north2 = found.covariance_m2
    assert abs(east) < 3 * math.sqrt(east2) and abs(north) < 3 * math.sqrt(north2) and abs(both) <= east2
    assert math.sqrt(east2) < 3 * GSD_M
    assert 4 <= found.inliers <= found.matches


def assert_refused(found: Registration | None) -> None:
    assert found is None or (not found.verified and found.refused)


@pytest.mark.parametrize(
    "view",
    [
        DOWN,
        dataclasses.replace(DOWN, yaw_deg=251.0, roll_deg=-4.0, pitch_deg=-84.0),
        CameraView(90.0, -60.0, 60.0, 120.0),
        CameraView(75.0, -45.0, 60.0, 300.0, 3.0),
        CameraView(70.0, -35.0, 50.0, 10.0),
        CameraView(90.0, -115.0, 60.0, 80.0, -3.0),  # beyond straight down
    ],
)
def test_a_photo_is_placed_within_a_pixel_of_the_map(registrar, pixels, view: CameraView) -> None:
    found = laid(registrar, photo_of(pixels, view), known(view))
    assert_placed(found)
    assert found.scale == pytest.approx(1.0, abs=0.01) and abs(found.turn_deg) < 1.0


def test_errors_of_height_and_yaw_are_found(registrar, pixels) -> None:
    told = dataclasses.replace(DOWN, height_m=DOWN.height_m / 1.05, yaw_deg=DOWN.yaw_deg - 6.0)
    found = laid(registrar, photo_of(pixels, DOWN), known(told))
    assert_placed(found)
    assert found.scale == pytest.approx(1.05, abs=0.005)  # the camera was 5 % higher than it says
    assert found.turn_deg == pytest.approx(6.0, abs=0.3)


def test_errors_of_pitch_and_roll_are_borne(registrar, pixels) -> None:
    told = dataclasses.replace(DOWN, pitch_deg=-87.0, roll_deg=0.0)
    found = laid(registrar, photo_of(pixels, DOWN), known(told))
    # Its own middle is placed: that of the wrong view is the same pixel of the photo.
    assert_placed(found, within_m=3 * GSD_M)


def test_a_yaw_that_is_half_a_turn_off_is_noticed(registrar, pixels) -> None:
    told = dataclasses.replace(DOWN, yaw_deg=(DOWN.yaw_deg + 180) % 360)
    found = laid(registrar, photo_of(pixels, DOWN), known(told))
    assert_placed(found)
    assert abs(found.turn_deg) == pytest.approx(180.0, abs=1.0)


@pytest.mark.parametrize("yaw_deg", [None, DOWN.yaw_deg, DOWN.yaw_deg + 137.0])
def test_a_photo_without_height_and_angles_is_placed_by_a_similarity(registrar, pixels, yaw_deg) -> None:
    width, height = SIZE
    view = dataclasses.replace(DOWN, height_m=110.0, roll_deg=0.0)  # a tile and a half across its shorter side
    attitude = attitude_of(PhotoMetadata(yaw_deg=yaw_deg), {}, width, height, TILE_M)
    assert not attitude.known
    found = laid(registrar, photo_of(pixels, view), attitude)
    assert_placed(found, within_m=2 * GSD_M)
    assert found.scale == pytest.approx(2 * 110.0 * math.tan(math.radians(30)) * height / width / TILE_M, rel=0.02)
    turned = (DOWN.yaw_deg - (yaw_deg or 0.0) + 180) % 360 - 180
    assert found.turn_deg == pytest.approx(turned, abs=1.0)


def test_a_photo_of_another_town_is_refused(registrar, elsewhere) -> None:
    for view in (DOWN, CameraView(75.0, -45.0, 60.0, 300.0)):
        found = laid(registrar, photo_of(elsewhere, view), known(view))
        assert_refused(found)
        assert found is None or found.refused.startswith("unverified: chance gives 10^")
    assert_refused(laid(registrar, photo_of(elsewhere, DOWN), attitude_of(PhotoMetadata(), {}, *SIZE, TILE_M)))


def test_a_photo_whose_places_are_all_elsewhere_is_refused(registrar, pixels) -> None:
    far = [offset(MIDDLE, -150.0, 150.0), offset(MIDDLE, 9_000.0, 0.0)]
    assert_refused(registrar.register(photo_of(pixels, DOWN), known(DOWN), far))
    assert registrar.register(photo_of(pixels, DOWN), known(DOWN), []) is None


@pytest.mark.parametrize("what", ["black", "grey", "noise", "gradient", "stripes"])
@pytest.mark.parametrize("attitude", [known(DOWN), attitude_of(PhotoMetadata(), {}, *SIZE, TILE_M)])
def test_a_photo_of_nothing_is_refused(registrar, what: str, attitude: Attitude) -> None:
    width, height = SIZE
    image = {
        "black": np.zeros((height, width, 3)),
        "grey": np.full((height, width, 3), 128),
        "noise": np.random.default_rng(0).integers(0, 256, (height, width, 3)),
        "gradient": np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (height, width, 3)),
        "stripes": np.broadcast_to((np.arange(width) // 8 % 2 * 200)[None, :, None], (height, width, 3)),
    }[what]
    assert_refused(laid(registrar, np.ascontiguousarray(image, np.uint8), attitude))


def test_a_map_that_repeats_itself_does_not_tell_the_place() -> None:
    patch = town(48, 7)
    pixels = ArrayMap(np.tile(patch, (13, 13, 1)), GSD_M, MIDDLE)
    assert_refused(laid(Registrar(pixels, TILE_M), photo_of(pixels, DOWN), known(DOWN)))


@pytest.mark.parametrize("copies_m", [(-130.0,), (-130.0, 130.0)])
def test_ground_that_stands_on_the_map_again_is_ambiguous(pixels, copies_m: tuple[float, ...]) -> None:
    image = pixels.image.copy()
    x, y = SIDE_PX // 2 + round(TRUE[0] / GSD_M), SIDE_PX // 2 - round(TRUE[1] / GSD_M)
    ground = pixels.image[y - 130 : y + 130, x - 130 : x + 130]
    for away_m in copies_m:
        left = x + round(away_m / GSD_M) - 130
        grain = np.random.default_rng(0).normal(0, 6, ground.shape)
        image[y - 130 : y + 130, left : left + 260] = np.clip(ground + grain, 0, 255)
    # The copies are looked at first; the true place, which is a little more alike, last.
    places = [offset(MIDDLE, TRUE[0] + away_m, TRUE[1]) for away_m in (*copies_m, 0.0)]
    found = Registrar(ArrayMap(image, GSD_M, MIDDLE), TILE_M).register(photo_of(pixels, DOWN), known(DOWN), places)
    assert found is not None and not found.verified and found.refused.startswith("ambiguous: ")
    # Where one of them alone is looked at nothing speaks against it.
    assert_placed(
        Registrar(ArrayMap(image, GSD_M, MIDDLE), TILE_M).register(photo_of(pixels, DOWN), known(DOWN), places[-1:])
    )


@dataclass
class Kinds:
    """A `FeatureExtractor`: of the photo the given points, of the map what is not black there; grey is the kind."""

    photo_px: np.ndarray

    def extract(self, image: np.ndarray, seen: np.ndarray, most: int, upright: bool) -> Features:
        if len(image) == BLOCK_PX + 2 * MARGIN_PX:
            rows, columns = np.nonzero(image[..., 0])
            points, kinds = np.stack([columns, rows], 1) + 0.5, image[rows, columns, 0] // 4
        else:
            points, kinds = self.photo_px + len(image) / 2, np.arange(1, len(self.photo_px) + 1)
        descriptors = np.eye(64, dtype=np.float32)[kinds]
        return Features(points.astype(np.float32), np.full(len(points), 4.0, np.float32), descriptors)


def planted(photo_px: np.ndarray, map_px: np.ndarray, view: CameraView = DOWN) -> Registration | None:
    """The photo's points and those of the map, in pixels right of and below the middle; each is like its equal."""
    image = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    for kind, (x, y) in enumerate(map_px, 1):
        image[SIDE_PX // 2 + y, SIDE_PX // 2 + x] = 4 * kind + 2
    one = Registrar(ArrayMap(image, GSD_M, MIDDLE), TILE_M, extractor=Kinds(photo_px + 0.5))
    return one.register(np.zeros((SIZE[1], SIZE[0], 3), np.uint8), known(view), [MIDDLE])


@pytest.mark.parametrize(
    ("here", "there", "refused"), [(40, 0, False), (26, 14, False), (22, 18, True), (18, 22, True)]
)
def test_where_nearly_as_many_matches_agree_on_a_place_nearby_it_is_ambiguous(here, there, refused) -> None:
    spots = np.random.default_rng(3).integers(-80, 80, (here + there, 2))
    elsewhere = spots.copy()
    elsewhere[here:, 0] += 50  # within the ground that is looked at around one place
    found = planted(spots, elsewhere)
    assert found is not None and found.matches > 30
    if refused:
        assert not found.verified and found.refused.startswith("ambiguous: ")
        assert found.inliers <= max(here, there)
    else:
        assert found.verified and distance_m(found.point, MIDDLE) < 0.1


def test_the_false_alarms_are_those_found_by_hand() -> None:
    # 40 matches, each in a cell of its own (90 m / 12 = 15 pixels), all agree.
    grid = np.stack(np.meshgrid(np.arange(-80, 80, 20), np.arange(-50, 50, 20)), -1).reshape(-1, 2)
    found = planted(grid, grid)
    assert found is not None and (found.inliers, found.matches) == (40, 40)

    def by_chance(tolerance_m: float) -> float:
        """That a match agrees: the circle in the square of 150 m that is searched, times 2 for uneven maps."""
        return math.log10(2 * math.pi * tolerance_m**2 / 150**2)

    # By a translation within 1.8 m (2 % of 90 m), or by a pair within 1.5 m (3 pixels); 5 places, 5 kinds of search.
    translation = math.log10(40 * 25) + 39 * by_chance(1.8)
    similarity = math.log10(40 * 39 / 2 * 25) + 38 * by_chance(1.5)
    assert found.log10_nfa == pytest.approx(min(translation, similarity))


@dataclass
class Asked(Kinds):
    """Remembers how many features of the photo it was asked for, and gives no more."""

    asked: list[int] = field(default_factory=list)

    def extract(self, image: np.ndarray, seen: np.ndarray, most: int, upright: bool) -> Features:
        found = super().extract(image, seen, most, upright)
        if len(image) == BLOCK_PX + 2 * MARGIN_PX:
            return found
        self.asked.append(most)
        return Features(found.points[:most], found.sizes[:most], found.descriptors[:most])


def test_a_photo_is_tried_with_few_features_then_with_all_then_under_any_turn() -> None:
    grid = np.stack(np.meshgrid(np.arange(-80, 80, 20), np.arange(-50, 50, 20)), -1).reshape(-1, 2)
    here, nowhere = np.zeros((2, SIDE_PX, SIDE_PX, 3), np.uint8)
    for kind, (x, y) in enumerate(grid, 1):
        here[SIDE_PX // 2 + y, SIDE_PX // 2 + x] = 4 * kind + 2
    black = np.zeros((3 * SIZE[1], 3 * SIZE[0], 3), np.uint8)
    high = known(CameraView(300.0, -90.0, 60.0))
    every = math.ceil(DENSITY * (TILE_M * 2 / GSD_M) ** 2 / 1e6)
    assert every == 519
    for image, asked in ((here, [400]), (nowhere, [400, every, every])):
        one = Registrar(ArrayMap(image, GSD_M, MIDDLE), TILE_M, RegisterSettings(side_tiles=2.0), Asked(grid + 0.5))
        found = one.register(black, high, [MIDDLE])
        assert one._extractor.asked == asked
        assert (found is not None and found.verified) == (image is here)


@pytest.mark.parametrize(("yaw_deg", "east", "north"), [(0.0, 0.0, 1.0), (90.0, 1.0, 0.0), (225.0, 0.5, 0.5)])
def test_what_stands_high_by_its_scale_is_uncertain_along_the_view(yaw_deg, east, north) -> None:
    # Scale 0.9 is 7 % more than a good view's error: at 100 m, 7 m high, which lean 7 m away at 45 degrees.
    view = CameraView(100.0, -45.0, 60.0, yaw_deg)
    away = np.array(_leaning_m(view, 0.9 + 0j))
    assert away**2 == pytest.approx(np.array([east, north]) * 49.0, abs=1e-9)
    assert away.prod() == pytest.approx(24.5 if yaw_deg == 225.0 else 0.0, abs=1e-9)
    assert _leaning_m(view, 0.98 + 0j) == (0.0, 0.0) == _leaning_m(view, 1.02 + 0j)
    assert np.allclose(_leaning_m(dataclasses.replace(view, pitch_deg=-90.0), 0.9 + 0j), 0, atol=1e-9)
    # Where the photo lies turned on the map by 90 degrees (counter-clockwise), its camera looked west.
    assert _leaning_m(CameraView(100.0, -45.0, 60.0, 0.0), 0.9j) == pytest.approx((-7.0, 0.0), abs=1e-9)


@pytest.mark.parametrize(("pitch_deg", "scale", "refused"), [(-90, 0.85, False), (-45, 0.98, False), (-45, 0.85, True)])
def test_what_may_lean_away_by_more_than_a_fifth_of_a_tile_is_not_believed(pitch_deg, scale, refused) -> None:
    # 12 % of 100 m beyond a good view's error lean by 12 m at 45 degrees; a circle of 12 m is believed.
    grid = np.stack(np.meshgrid(np.arange(-80, 81, 40), np.arange(-80, 81, 40)), -1).reshape(-1, 2)
    found = planted(grid, np.rint(grid * scale).astype(int), CameraView(100.0, pitch_deg, 60.0))
    assert found is not None and found.inliers > 15 and found.scale == pytest.approx(scale, abs=0.01)
    assert found.verified == (not refused)
    if refused:
        assert found.refused == "imprecise: its circle of 95 % has a radius of 29 m, at most 12 are believed"


def test_the_many_features_of_one_crossing_are_one_witness() -> None:
    draw = np.random.default_rng(8)
    crossing = np.stack(np.meshgrid([61, 65, 69, 73], [-44, -40, -36, -32]), -1).reshape(-1, 2)
    scattered = np.concatenate([draw.integers(-80, 50, (30, 2)), crossing])
    elsewhere = scattered.copy()
    elsewhere[:30] = draw.integers(-140, 140, (30, 2))
    found = planted(scattered, elsewhere)
    assert found is not None and found.inliers >= len(crossing) and found.matches > 40
    assert not found.verified and found.refused.startswith("unverified: ")
    # As many that lie apart are believed.
    apart = scattered.copy()
    apart[30:] = np.stack(np.meshgrid([-60, -20, 20, 60], [-60, -20, 20, 60]), -1).reshape(-1, 2)
    elsewhere[30:] = apart[30:]
    found = planted(apart, elsewhere)
    assert found is not None and found.verified


def test_a_map_without_features_places_nothing() -> None:
    pixels = ArrayMap(np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8), GSD_M, MIDDLE)
    assert laid(Registrar(pixels, TILE_M), photo_of(pixels, DOWN), known(DOWN)) is None


def test_a_photo_across_the_map_s_edge_is_placed_by_what_lies_on_it(pixels) -> None:
    image = pixels.image[:, : SIDE_PX // 2 + round(TRUE[0] / GSD_M) + 10]  # it ends 5 m east of the photo's middle
    half = ArrayMap(image, GSD_M, offset(MIDDLE, (image.shape[1] - SIDE_PX) / 2 * GSD_M, 0.0))
    assert_placed(laid(Registrar(half, TILE_M), photo_of(pixels, DOWN), known(DOWN)), within_m=2 * GSD_M)


@pytest.mark.parametrize("gsd_m", [0.25, 1.0])
def test_a_map_of_another_resolution_places_it_too(pixels, gsd_m: float) -> None:
    from PIL import Image

    side = round(SIDE_PX * GSD_M / gsd_m)
    image = np.asarray(Image.fromarray(pixels.image).resize((side, side), Image.Resampling.LANCZOS))
    other = ArrayMap(image, gsd_m, MIDDLE)
    assert_placed(laid(Registrar(other, TILE_M), photo_of(pixels, DOWN), known(DOWN)), within_m=1.0)


@pytest.mark.parametrize("height_m", [0.01, 2.0, 2_000.0, 4_000.0, 20_000.0])
def test_a_height_that_shows_a_yard_or_more_than_the_map_places_nothing_wrong(registrar, pixels, height_m) -> None:
    told = dataclasses.replace(DOWN, height_m=height_m)
    assert_refused(laid(registrar, photo_of(pixels, DOWN), known(told)))


def test_the_same_photo_is_placed_the_same_twice(registrar, pixels) -> None:
    view = CameraView(75.0, -45.0, 60.0, 300.0, 3.0)
    image = photo_of(pixels, view)
    assert laid(registrar, image, known(view)) == laid(registrar, image, known(view))


def test_only_so_many_places_are_looked_at_and_those_of_one_tile_count_once(pixels) -> None:
    one = Registrar(pixels, TILE_M, RegisterSettings(candidates=2))
    image = photo_of(pixels, DOWN)
    wrong = [(-150.0, 150.0), (-140.0, 160.0), (-150.0, 170.0)]  # within half a tile
    assert_placed(one.register(image, known(DOWN), [offset(MIDDLE, *spot) for spot in (*wrong, NEAR)]))
    apart = [(-150.0, 150.0), (150.0, 150.0)]
    assert_refused(one.register(image, known(DOWN), [offset(MIDDLE, *spot) for spot in (*apart, NEAR)]))


def test_it_enters_and_leaves_the_map(pixels) -> None:
    before = pixels.entered
    with Registrar(pixels, TILE_M):
        assert pixels.entered == before + 1
    assert pixels.entered == before


def test_without_opencv_it_says_what_to_install(pixels, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingPackageError, match=r"opencv-python-headless.*dphr\[register\]"):
        Registrar(pixels, TILE_M)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_log10_nfa": 1.0}, r"`max_log10_nfa` is 1.0; expected a number in \[-300, 0\]"),
        ({"candidates": 0}, "`candidates` is 0"),
        ({"max_radius_tiles": 0.0}, "`max_radius_tiles` is 0.0"),
        ({"side_tiles": math.nan}, "`side_tiles` is nan"),
        ({"max_side_px": 10}, "`max_side_px` is 10"),
        ({"ratio": 1.5}, "`ratio` is 1.5"),
        ({"rivals": 0.0}, "`rivals` is 0.0"),
        ({"cache_mb": 0}, "`cache_mb` is 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changed: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RegisterSettings(**changed)
