import dataclasses
import io
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from map_places import PLACES, assert_blots_lie_right
from PIL import Image

from dphr_infer.errors import ConfigError, MapError
from dphr_infer.files.bundle import file_digest
from dphr_infer.files.gallery import open_gallery
from dphr_infer.geo import metres_per_degree, offset
from dphr_infer.indexing.index import index
from dphr_infer.maps.mercator import pixel_m, to_places, to_world
from dphr_infer.maps.pack import PackOrigin, open_map_pack, parse_origin
from dphr_infer.maps.pack_writer import QUALITY, plan_pack, write_map_pack
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import GeoPoint

ORIGIN = PackOrigin("map.tif", "0" * 64, "EPSG:32632", 60.0, 10.0, 0.5, 16, 18, QUALITY, "0.1.0")


def pack_of(path: Path, gsd_m: float | None = None) -> Path:
    """The pack of a map, beside it."""
    out = path.with_suffix(".pack")
    with MapRaster(path) as raster:
        write_map_pack(raster, plan_pack(raster, gsd_m), file_digest(path), out)
    return out


def smooth(texture, height: int, width: int) -> np.ndarray:
    """A grey picture whose detail is coarser than what is asked of it, so that only misplaced pixels differ."""
    grey = Image.fromarray(texture(height // 4, width // 4)).convert("L")
    return np.repeat(np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC))[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    """What the fixture `pack` has made once."""
    return {}


@pytest.fixture
def pack(made, write_map, texture) -> Path:
    """A pack of a map of 400 x 300 pixels of half a metre, map.tif beside it."""
    path = write_map(smooth(texture, 300, 400), west=500_000.0)
    if "pack" not in made:
        made["pack"] = pack_of(path).read_bytes()
    path.with_suffix(".pack").write_bytes(made["pack"])
    return path.with_suffix(".pack")


def change(path: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute(statement, values)
    database.close()


def test_the_world_of_tiles_is_web_mercators() -> None:
    from rasterio.warp import transform

    points = np.array([[0.0, 0.0], [60.0, 10.0], [-46.8, -179.9], [85.0, 179.0]])
    x_m, y_m = transform("EPSG:4326", "EPSG:3857", points[:, 1], points[:, 0])
    world = to_world(points, 20)
    px_m = 2 * np.pi * 6378137.0 / (256 << 20)
    np.testing.assert_allclose(world, np.stack([x_m, np.negative(y_m)], axis=1) / px_m + (128 << 20), atol=1e-4)
    np.testing.assert_allclose(to_places(world[:, 0], world[:, 1], 20), points, atol=1e-9)
    assert np.isnan(to_world(np.array([[86.0, 0.0]]), 3)).any()
    # A pixel's true size is the step between the places of two neighbours.
    here, there = to_places(np.array([5e7, 5e7 + 1]), np.array([9e7, 9e7 + 1]), 20)
    per_lat, per_lon = metres_per_degree(here[0])
    assert pixel_m(here[0], 20) == pytest.approx(((there[1] - here[1]) * per_lon, (here[0] - there[0]) * per_lat))


@pytest.mark.parametrize("place", ["utm turned", "degrees across", "mercator"])
@pytest.mark.parametrize("gsd_m", [0.3, 0.7, 3.1])
def test_blots_lie_where_they_were_put(blots, place: str, gsd_m: float) -> None:
    path, middle, spots, reach_m = blots(PLACES[place], 3.0 * gsd_m)
    with open_map_pack(pack_of(path)) as pack:
        assert_blots_lie_right(pack, middle, spots, reach_m, gsd_m)


@pytest.mark.parametrize("place", ["utm turned", "oblong degrees", "polar", "mercator across"])
def test_a_packs_views_are_the_rasters(write_map, texture, place: str) -> None:
    path = write_map(smooth(texture, 480, 520), **PLACES[place])
    with MapRaster(path) as raster, open_map_pack(pack_of(path)) as pack:
        assert pack.centre == raster.centre
        assert 0.45 * raster.gsd_m < pack.gsd_m <= raster.gsd_m
        for gsd_m in (raster.gsd_m, 1.7, 4.0):
            expected, view = raster.view(raster.centre, 60, 50, gsd_m), pack.view(pack.centre, 60, 50, gsd_m)
            both = expected.covered & view.covered
            # Narrower by the pixels that the edge cuts, at each of two resamplings.
            assert (view.covered & ~expected.covered).mean() < 0.03
            assert both.sum() > 0.8 * expected.covered.sum() > 0
            assert np.abs(view.image.astype(float) - expected.image)[both].mean() < 4.0
            assert not view.image[~view.covered].any()


def test_the_level_is_as_fine_as_asked_and_no_finer_than_needed(write_map, texture) -> None:
    path = write_map(texture(300, 400), west=500_000.0)
    sizes = []
    with MapRaster(path) as raster:
        for asked_m, reached_m in ((None, raster.gsd_m), (0.01, raster.gsd_m), (0.9, 0.9), (3.0, 3.0)):
            plan = plan_pack(raster, asked_m)
            latitude_deg = raster.centre.latitude_deg
            assert max(pixel_m(latitude_deg, plan.max_zoom)) <= reached_m
            assert max(pixel_m(latitude_deg, plan.max_zoom - 1)) > reached_m
            report = write_map_pack(raster, plan, "0" * 64, path.with_suffix(".pack"))
            assert report.size_bytes == path.with_suffix(".pack").stat().st_size
            sizes.append(report.size_bytes)
        assert sizes[0] == sizes[1] > sizes[2] > sizes[3]
        for wrong in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match="`map_gsd_m` is"):
                plan_pack(raster, wrong)


@pytest.mark.parametrize("halvings", [0, 1, 2, 3, 5])
def test_levels_and_their_means_are_means_of_the_finest(pack: Path, halvings: int) -> None:
    with open_map_pack(pack) as opened:
        x, y = (int(value) >> 8 << 8 for value in to_world(np.array([[opened.origin.latitude_deg, 9.0]]), 18)[0])
        zoom = opened.origin.max_zoom
        x, y = (value << (zoom - 18) for value in (x, y))
        block = 1 << halvings
        box = dataclasses.replace(opened.extent((1, 1)), left=x, top=y - 512, right=x + 512, bottom=y + 512)
        fine = opened.read_blocks(box, (1, 1)).astype(float)
        coarse = dataclasses.replace(
            box, **{side: getattr(box, side) // block for side in ("left", "top", "right", "bottom")}
        )
        found = opened.read_blocks(coarse, (block, block))
    blocks = fine.reshape(1024 // block, block, 512 // block, block, 4)
    covered = (blocks[..., 3] == 255).all(axis=(1, 3))
    assert 0.02 < covered.mean() < 1.0
    np.testing.assert_array_equal(found[..., 3] == 255, covered)
    assert np.abs(found[..., :3] - blocks[..., :3].mean(axis=(1, 3)))[covered].mean() < 3.0


def test_what_has_no_data_stays_uncovered_to_the_pixel(write_map, texture) -> None:
    image = texture(400, 400)
    alpha = np.where(np.indices((400, 400)).sum(axis=0) % 160 < 100, 255, 0).astype(np.uint8)  # diagonal bands
    path = write_map(np.dstack([image, alpha]), west=500_000.0)
    with MapRaster(path) as raster, open_map_pack(pack_of(path)) as pack:
        for gsd_m in (0.5, 1.0, 2.0):
            expected, view = raster.view(raster.centre, 80, 80, gsd_m), pack.view(raster.centre, 80, 80, gsd_m)
            assert 0.3 < expected.covered.mean() < 0.8
            assert (view.covered & ~expected.covered).mean() < 0.02
            assert (expected.covered & ~view.covered).mean() < 0.12


@pytest.mark.parametrize("away", [(46.8, -92.0), (0.0, 0.0), (-60.0, -170.0), (86.0, 9.0), (-89.9, 0.0)])
def test_a_view_of_another_place_covers_nothing(pack: Path, away: tuple[float, float]) -> None:
    with open_map_pack(pack) as opened:
        for gsd_m in (0.5, 300.0):
            view = opened.view(GeoPoint(*away), 30, 30, gsd_m)
            assert not view.covered.any() and not view.image.any()


def test_other_programs_open_it(pack: Path) -> None:
    import rasterio
    from rasterio.warp import transform

    named = pack.rename(pack.with_suffix(".mbtiles"))  # GDAL knows them by this name
    with MapRaster(pack.with_suffix(".tif")) as raster, rasterio.open(named) as dataset:
        assert (dataset.driver, dataset.crs.to_epsg()) == ("MBTiles", 3857)
        places = [offset(raster.centre, float(east_m), float(east_m) / 2) for east_m in range(-80, 81, 20)]
        x, y = transform("EPSG:4326", "EPSG:3857", [p.longitude_deg for p in places], [p.latitude_deg for p in places])
        found = np.array(list(dataset.sample(zip(x, y, strict=True)))).astype(float)
        expected = np.array([raster.view(place, 1, 1, raster.gsd_m).image[0, 0] for place in places]).astype(float)
    assert (found[:, 3] == 255).all() and np.ptp(expected) > 100
    assert np.abs(found[:, :3] - expected).mean() < 6.0


def test_the_metadata_are_mbtiles_own_and_the_digest(pack: Path) -> None:
    database = sqlite3.connect(pack)
    rows = dict(database.execute("SELECT name, value FROM metadata"))
    zooms = {zoom for (zoom,) in database.execute("SELECT DISTINCT zoom_level FROM tiles")}
    (application,) = database.execute("PRAGMA application_id").fetchone()
    database.close()
    assert application.to_bytes(4, "big") == b"MPBX"
    assert (rows["name"], rows["format"], rows["type"]) == ("map.tif", "webp", "baselayer")
    assert zooms == set(range(int(rows["minzoom"]), int(rows["maxzoom"]) + 1)) and len(zooms) == 3
    west, south, east, north = (float(value) for value in rows["bounds"].split(","))
    origin = parse_origin(rows["dphr"])
    assert west < origin.longitude_deg < east and south < origin.latitude_deg < north
    assert origin.map_sha256 == file_digest(pack.with_suffix(".tif"))


def test_it_is_read_where_nothing_can_be_written_and_stays_as_it_is(pack: Path) -> None:
    before, names = pack.read_bytes(), sorted(pack.parent.iterdir())
    with open_map_pack(pack) as opened:
        assert opened.view(opened.centre, 20, 20, 0.5).covered.all()
        assert sorted(pack.parent.iterdir()) == names
    opened.close()
    assert pack.read_bytes() == before
    odd = pack.with_name("100% of a#b?c=d\udcff.pack")
    pack.rename(odd)
    with open_map_pack(odd) as opened:
        assert opened.view(opened.centre, 20, 20, 0.5).covered.all()


WITHOUT_RASTERIO = """
import sys
sys.modules["rasterio"] = None
from dphr_infer.maps.pack import open_map_pack
with open_map_pack(sys.argv[1]) as pack:
    print(pack.view(pack.centre, 32, 32, 0.5).covered.all())
"""


def test_it_needs_no_rasterio(pack: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_RASTERIO, str(pack)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_decoded_tiles_take_the_stated_memory_at_most(pack: Path) -> None:
    with open_map_pack(pack) as unbounded, open_map_pack(pack, cache_bytes=3 * 263_000) as bounded:
        for east_m in range(-80, 80, 10):
            place = offset(bounded.centre, float(east_m), float(east_m) / 2)
            expected, view = unbounded.view(place, 64, 64, 0.5), bounded.view(place, 64, 64, 0.5)
            np.testing.assert_array_equal(view.image, expected.image)
            held = sum(tile.nbytes for tile in bounded._tiles.values())
            assert 0 < held <= bounded._held_bytes <= 3 * 263_000
        assert sum(tile.nbytes for tile in unbounded._tiles.values()) > 3 * 263_000


def test_threads_may_share_it(pack: Path) -> None:
    with open_map_pack(pack, cache_bytes=600_000) as opened:
        places = [offset(opened.centre, float(east_m), 0.0) for east_m in range(-60, 60, 15)]
        expected = [opened.view(place, 48, 48, 0.5).image for place in places]
        wrong: list[int] = []

        def look(turn: int) -> None:
            for i in range(len(places)):
                k = (i + turn) % len(places)
                if not np.array_equal(opened.view(places[k], 48, 48, 0.5).image, expected[k]):
                    wrong.append(k)

        threads = [threading.Thread(target=look, args=(turn,)) for turn in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_pack_of_another_map_is_refused_with_both_digests(bundle, write_map, texture, tmp_path: Path) -> None:
    path = write_map(texture(200, 200))
    report = index(path, bundle=bundle, out=tmp_path / "g", tile_m=50.0, stride_m=25.0, with_map=tmp_path / "p")
    gallery = open_gallery(tmp_path / "g")
    assert report.pack is not None and report.pack.size_bytes == (tmp_path / "p").stat().st_size
    with open_map_pack(tmp_path / "p") as pack:
        pack.check_gallery(gallery)
    other = pack_of(write_map(texture(200, 200, 1), name="other.tif"))
    with open_map_pack(other) as pack:
        words = rf"other\.tif \({pack.origin.map_sha256[:12]}….*map\.tif \({gallery.origin.map_sha256[:12]}…"
        with pytest.raises(MapError, match=words):
            pack.check_gallery(gallery)


def test_a_gsd_without_a_pack_is_refused(bundle, write_map, texture, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`map_gsd_m`.*`with_map`"):
        index(write_map(texture(200, 200)), bundle=bundle, out=tmp_path / "g", tile_m=50.0, stride_m=25.0, map_gsd_m=1)


def test_tiles_of_another_program_are_refused(pack: Path) -> None:
    change(pack, "DELETE FROM metadata WHERE name = 'dphr'")
    with pytest.raises(MapError, match=r"not the digest of the map.*--with-map"):
        open_map_pack(pack)


def test_a_query_of_a_strangers_is_not_run(pack: Path) -> None:
    change(pack, "ALTER TABLE tiles RENAME TO stored")
    change(pack, "CREATE VIEW tiles AS SELECT * FROM stored")
    with pytest.raises(MapError, match="not a map pack"):
        open_map_pack(pack)


def test_files_that_are_no_packs_are_refused(tmp_path: Path, write_map, texture) -> None:
    with pytest.raises(MapError, match=r"is a folder.*--with-map"):
        open_map_pack(tmp_path)
    with pytest.raises(MapError, match="does not exist"):
        open_map_pack(tmp_path / "none")
    with pytest.raises(MapError, match="is not a map pack"):
        open_map_pack(write_map(texture(64, 64)))
    (tmp_path / "other.db").touch()
    change(tmp_path / "other.db", "CREATE TABLE cats (name text)")
    with pytest.raises(MapError, match="not a map pack"):
        open_map_pack(tmp_path / "other.db")


@pytest.mark.parametrize("share", [0.001, 0.2, 0.9])
def test_a_pack_that_was_cut_short_is_refused(pack: Path, share: float) -> None:
    content = pack.read_bytes()
    pack.write_bytes(content[: int(share * len(content))])
    with pytest.raises(MapError, match=r"is damaged: it has [\d,]+ bytes, and should have [\d,]+"):
        open_map_pack(pack)


def picture(kind: str, side: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", side).save(data, kind)
    return data.getvalue()


def webp_that_claims(side_px: int) -> bytes:
    """A small WebP whose frame header says another width and height: to encode so many pixels takes seconds."""
    data = bytearray(picture("WEBP", (16, 16)))
    at = data.index(b"\x9d\x01\x2a") + 3  # a lossy frame's start code; two sizes of 14 bits come after it
    data[at : at + 4] = side_px.to_bytes(2, "little") * 2
    return bytes(data)


@pytest.mark.parametrize(
    ("tile", "words"),
    [
        (b"no picture", "cannot identify"),
        (picture("WEBP", (256, 256))[:40], "cannot be read"),
        (picture("WEBP", (512, 512)), "512 x 512 pixels instead of 256 x 256"),
        (webp_that_claims(16_000), "decompression bomb"),
        (picture("PNG", (256, 256)), "cannot identify"),
        (b"\0" * (2 << 20), "at most 1048576 bytes"),
        ("text", "no picture"),
        (None, "no picture"),
    ],
    ids=["bytes", "cut", "large", "bomb", "png", "long", "text", "null"],
)
def test_a_tile_that_is_no_tile_is_refused(pack: Path, tile: object, words: str) -> None:
    change(pack, "UPDATE tiles SET tile_data = ?", tile)
    with open_map_pack(pack) as opened, pytest.raises(MapError, match=rf"is damaged: the tile \d+/\d+/\d+ .*{words}"):
        opened.view(opened.centre, 32, 32, 0.5)


def test_metadata_say_what_they_were_made_from() -> None:
    assert parse_origin(ORIGIN.to_json()) == ORIGIN


WRONG = st.sampled_from(
    [*({field.name: value} for field in dataclasses.fields(PackOrigin) for value in (None, [], "x", -1, 1e400, True)),
     {"version": 2}, {"format": "x"}, {"more": 1}, {"map_sha256": "0" * 63 + "G"}, {"max_zoom": 99}, {"min_zoom": 19}]
)  # fmt: skip


@given(WRONG)
def test_other_metadata_are_refused_or_taken_whole(wrong: dict) -> None:
    raw = json.loads(ORIGIN.to_json()) | wrong
    try:
        found = parse_origin(json.dumps(raw))
    except (ValueError, TypeError, KeyError):
        return
    assert dataclasses.asdict(found).items() >= wrong.items()
    assert isinstance(found.map_name, str) and 0 <= found.min_zoom <= found.max_zoom <= 26
    assert abs(found.latitude_deg) <= 90 and abs(found.longitude_deg) <= 180 and 0 < found.map_gsd_m < 1e300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.one_of(json_values.map(json.dumps), st.text(max_size=50), st.binary(max_size=50), st.just("[" * 60_000)))
def test_no_metadata_end_in_a_traceback(pack: Path, value: object) -> None:
    change(pack, "UPDATE metadata SET value = ? WHERE name = 'dphr'", value)
    with pytest.raises(MapError):
        open_map_pack(pack)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_ends_in_a_traceback(pack: Path, data: st.DataObject) -> None:
    content = bytearray(pack.read_bytes())
    kept = bytes(content)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 4200))
        content[start : start + 8] = data.draw(st.binary(min_size=1, max_size=8))
    pack.write_bytes(content)
    try:
        with open_map_pack(pack) as opened:
            opened.view(offset(GeoPoint(46.9, 9.0), 10.0, 10.0), 200, 200, 0.5)
            opened.view(opened.centre, 32, 32, 0.5)
            opened.tile_counts()
    except MapError as error:
        assert len(str(error).splitlines()) == 1
    finally:
        pack.write_bytes(kept)


def test_a_map_beyond_the_world_of_tiles_or_without_data_is_refused(write_map, texture, tmp_path: Path) -> None:
    polar = write_map(texture(200, 200), crs="EPSG:3413", west=-50.0, north=50.0)
    with MapRaster(polar) as raster, pytest.raises(MapError, match=r"latitude \d\d\.\d\d"):
        plan_pack(raster, 1.0)
    blank = write_map(np.zeros((200, 200, 4), np.uint8), name="blank.tif")
    with pytest.raises(MapError, match="no pixel with data"):
        pack_of(blank)
    assert not blank.with_suffix(".pack").exists() and not list(tmp_path.glob(".*part"))


def test_a_map_of_too_many_tiles_is_refused(write_map, texture) -> None:
    with MapRaster(write_map(texture(300, 400))) as raster, pytest.MonkeyPatch.context() as patch:
        patch.setattr("dphr_infer.maps.pack_writer.MAX_TILES", 10)
        with pytest.raises(MapError, match=r"takes up to \d+ tiles .* at most 10 are written\. Raise --map-gsd-m"):
            plan_pack(raster)


def test_a_pillow_without_webp_is_named(pack: Path, monkeypatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    with pytest.raises(MapError, match=r"reads no WebP.*pip install"):
        open_map_pack(pack)
    with MapRaster(pack.with_suffix(".tif")) as raster, pytest.raises(MapError, match=r"writes no WebP.*pip install"):
        write_map_pack(raster, plan_pack(raster), "0" * 64, pack)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from dphr_infer.errors import StorageError
from dphr_infer.maps.pack_writer import plan_pack, write_map_pack
from dphr_infer.maps.raster import MapRaster
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with MapRaster(Path(sys.argv[1])) as raster:
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
    try:
        write_map_pack(raster, plan_pack(raster), "0" * 64, Path(sys.argv[2]))
    except StorageError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(write_map, texture, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(write_map(texture(300, 400))), str(tmp_path / "o/p")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "could not be written" in done.stdout and len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "o").exists() or list((tmp_path / "o").iterdir()) == []


PEAK_MEMORY = """
import sys
from pathlib import Path
from dphr_infer.maps.pack_writer import plan_pack, write_map_pack
from dphr_infer.maps.raster import MapRaster
with MapRaster(Path(sys.argv[1])) as raster:
    write_map_pack(raster, plan_pack(raster, 2.0), "0" * 64, Path(sys.argv[2]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_the_map(write_map, tmp_path: Path) -> None:
    peaks_kib = []
    for side in (4000, 8000):  # 48 MB and 192 MB of pixels; GDAL's cache is held to 64 MB
        path = write_map(
            np.broadcast_to(np.uint8(90), (side, side, 3)), name=f"{side}.tif", tiled=True, compress="deflate"
        )
        command = [sys.executable, "-c", PEAK_MEMORY, str(path), str(tmp_path / f"{side}.p")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks_kib.append(int(done.stdout))
    assert peaks_kib[1] - peaks_kib[0] < 60 * 1024
