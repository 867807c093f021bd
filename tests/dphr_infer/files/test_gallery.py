import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dphr_infer.errors import GalleryError, StorageError
from dphr_infer.files.gallery import GalleryOrigin, GalleryWriter, open_gallery
from dphr_infer.geo import offset
from dphr_infer.types import GeoPoint, Prior

ORIGIN = GalleryOrigin("d" * 64, 100.0, 50.0, "map.tif", "a" * 64, "EPSG:32632", "fp32")
CENTRE = GeoPoint(47.0, 8.0)


def write(path: Path, n: int = 12, dim: int = 4, dtype: str = "fp16") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid of places 50 m apart, 4 a row, written in two parts; returns rows, latitudes, longitudes as given."""
    rows = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    points = [offset(CENTRE, 50.0 * (i % 4), 50.0 * (i // 4)) for i in range(n)]
    latitude, longitude = np.array([p.latitude_deg for p in points]), np.array([p.longitude_deg for p in points])
    with GalleryWriter(path, ORIGIN, dim, dtype) as writer:
        writer.append(rows[:5], latitude[:5], longitude[:5])
        writer.append(rows[5:], latitude[5:], longitude[5:])
    return rows, latitude, longitude


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("fp16", np.float16), ("fp32", np.float32)])
def test_a_gallery_gives_back_each_row_beside_its_place(tmp_path: Path, dtype: str, numpy_dtype: type) -> None:
    rows, latitude, longitude = write(tmp_path / "g", dtype=dtype)
    gallery = open_gallery(tmp_path / "g")
    assert gallery.embeddings.dtype == numpy_dtype and isinstance(gallery.embeddings, np.memmap)
    assert gallery.origin == ORIGIN
    assert (len(gallery), gallery.dim, gallery.bundle_digest) == (12, 4, "d" * 64)
    for row in range(12):
        (given,) = np.flatnonzero((latitude == gallery.latitude_deg[row]) & (longitude == gallery.longitude_deg[row]))
        np.testing.assert_array_equal(gallery.embeddings[row], rows[given].astype(numpy_dtype))


def test_the_safetensors_library_reads_a_gallery(tmp_path: Path) -> None:
    write(tmp_path / "g")
    tensors = load_file(tmp_path / "g")
    np.testing.assert_array_equal(tensors["embeddings"], open_gallery(tmp_path / "g").embeddings)


def test_rows_lie_in_hilbert_order(tmp_path: Path) -> None:
    points = [offset(CENTRE, east, north) for east, north in [(10, 0), (10, 10), (0, 0), (0, 10)]]
    with GalleryWriter(tmp_path / "g", ORIGIN, 1) as writer:
        places = np.array([[p.latitude_deg, p.longitude_deg] for p in points])
        writer.append(np.array([[0.0], [1.0], [2.0], [3.0]], np.float32), places[:, 0], places[:, 1])
    assert open_gallery(tmp_path / "g").embeddings[:, 0].tolist() == [2, 3, 1, 0]


def test_data_begin_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    write(tmp_path / "g")
    content = (tmp_path / "g").read_bytes()
    header = int.from_bytes(content[:8], "little")
    assert header % 8 == 0
    assert len(content) == 8 + header + 12 * (8 + 8 + 4 * 2)
    assert json.loads(content[8 : 8 + header])["embeddings"] == {
        "dtype": "F16",
        "shape": [12, 4],
        "data_offsets": [192, 288],
    }


def test_rows_within_a_radius_are_the_ones_whose_distance_says_so(tmp_path: Path) -> None:
    write(tmp_path / "g")
    gallery = open_gallery(tmp_path / "g")
    for radius_m in (10.0, 60.0, 75.0, 120.0):
        ranges = gallery.rows_within(CENTRE, radius_m)
        rows = [row for start, stop in ranges for row in range(start, stop)]
        assert rows == np.flatnonzero(gallery.distances_m(CENTRE) <= radius_m).tolist()
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    # By hand: of the grid's corner and its neighbours 50 m east, 50 m north and 71 m away.
    assert [sum(b - a for a, b in gallery.rows_within(CENTRE, r)) for r in (10, 60, 75)] == [1, 3, 4]
    assert gallery.rows_within(offset(CENTRE, 5000, 0), 100.0) == ()


def test_a_prior_becomes_its_rows_or_an_error_that_says_how_far_the_map_is(tmp_path: Path) -> None:
    write(tmp_path / "g")
    gallery = open_gallery(tmp_path / "g")
    found = gallery.rows_in(Prior(CENTRE.latitude_deg, CENTRE.longitude_deg, 60.0))
    assert (found.count, found.ranges) == (3, gallery.rows_within(CENTRE, 60.0))
    with pytest.raises(GalleryError, match=r"within 60 m of 46\.9\d+,8\.0+; the nearest is 1\.0 km away"):
        gallery.rows_in(Prior(offset(CENTRE, 0, -1000).latitude_deg, CENTRE.longitude_deg, 60.0))


def test_a_gallery_of_another_bundle_is_refused_with_both_digests(tmp_path: Path, bundle) -> None:
    write(tmp_path / "g")
    with pytest.raises(GalleryError, match=f"dddddddddddd….*{bundle.digest[:12]}"):
        open_gallery(tmp_path / "g").check_bundle(bundle)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_gallery_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    write(tmp_path / "g")
    content = (tmp_path / "g").read_bytes()
    (tmp_path / "g").write_bytes(content[:keep])
    with pytest.raises(GalleryError, match="damaged, cut short"):
        open_gallery(tmp_path / "g")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"embeddings": np.zeros((2, 3), np.float16)}, None, "not a gallery"),
        ({"latitude_deg": np.zeros(3)}, {}, "float64"),
        ({"latitude_deg": np.zeros(2, np.float32)}, {}, "float64"),
        ({"latitude_deg": np.array([0.0, 91.0])}, {}, "outside latitude"),
        ({"longitude_deg": np.array([0.0, np.nan])}, {}, "outside latitude"),
        ({}, {"version": 9}, "version 9"),
        ({}, {"tile_m": 0}, "damaged"),
        ({}, {"tile_m": "wide"}, "damaged"),
        ({}, {"surprise": 1}, "damaged"),
        ({"embeddings": np.zeros((2, 3), np.int32)}, {}, "damaged"),
        ({"embeddings": np.zeros(6, np.float32)}, {}, "damaged"),
    ],
)
def test_a_file_that_is_not_a_sound_gallery_is_refused(tmp_path: Path, tensors, metadata, message) -> None:
    sound = {"embeddings": np.zeros((2, 3), np.float16), "latitude_deg": np.zeros(2), "longitude_deg": np.zeros(2)}
    text = None if metadata is None else {"gallery": json.dumps({**json.loads(ORIGIN.to_json()), **metadata})}
    save_file({**sound, **tensors}, tmp_path / "g", text)
    with pytest.raises(GalleryError, match=message):
        open_gallery(tmp_path / "g")


def test_a_missing_gallery_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="dphr-infer index"):
        open_gallery(tmp_path / "nothing")


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = np.zeros(1)
    with pytest.raises(GalleryError, match="3 dimensions"), GalleryWriter(tmp_path / "g", ORIGIN, 3) as writer:
        writer.append(np.zeros((1, 2), np.float32), one, one)
    with pytest.raises(GalleryError, match="not finite"), GalleryWriter(tmp_path / "g", ORIGIN, 1) as writer:
        writer.append(np.full((1, 1), np.nan, np.float32), one, one)
    with pytest.raises(GalleryError, match="no tile"), GalleryWriter(tmp_path / "g", ORIGIN, 1):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_exception_while_writing_leaves_the_old_gallery_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "g")
    before = (tmp_path / "g").read_bytes()
    with pytest.raises(RuntimeError), GalleryWriter(tmp_path / "g", ORIGIN, 4) as writer:
        writer.append(np.zeros((1, 4), np.float32), np.zeros(1), np.zeros(1))
        raise RuntimeError
    assert (tmp_path / "g").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["g"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from dphr_infer.errors import StorageError
from dphr_infer.files.gallery import GalleryOrigin, GalleryWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
origin = GalleryOrigin("d", 100.0, 50.0, "map.tif", "", "EPSG:32632", "fp32")
try:
    with GalleryWriter(Path(sys.argv[1]), origin, 64, "fp32") as writer:
        for _ in range(8):
            writer.append(np.zeros((32, 64), np.float32), np.zeros(32), np.zeros(32))
except StorageError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("limit", [10_000, 66_000])  # the rows take 65,536 bytes, the whole file 69 kB
def test_a_file_that_the_system_refuses_is_one_line_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "g"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stdout and done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"), GalleryWriter(tmp_path / "file" / "g", ORIGIN, 1):
        pass


@pytest.mark.parametrize(
    "changed", [{"bundle_digest": None}, {"map_name": 3}, {"tile_m": "50"}, {"stride_m": float("inf")}, {"crs": []}]
)
def test_an_origin_of_wrong_types_is_refused(tmp_path: Path, changed: dict) -> None:
    with GalleryWriter(tmp_path / "g", dataclasses.replace(ORIGIN, **changed), 1) as writer:
        writer.append(np.ones((1, 1), np.float32), np.zeros(1), np.zeros(1))
    with pytest.raises(GalleryError, match="damaged"):
        open_gallery(tmp_path / "g")
