"""Builders of tiny trees in each benchmark's layout; images are 16 x 16 px, the smallest that is read."""

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

WriteImages = Callable[[Path, Sequence[str]], None]


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = _jpeg()


@pytest.fixture(scope="session")
def write_images() -> WriteImages:
    """Write a picture at each of the paths below a root."""

    def write(root: Path, names: Sequence[str]) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(JPEG)

    return write


@pytest.fixture
def university(tiny_root: Path, tmp_path: Path) -> Path:
    """University-1652: training places 0-5, queries 6-9, distractors 10 and 11, 3 drone images each."""
    return shutil.copytree(tiny_root, tmp_path / "university")


@pytest.fixture
def sues_prepared(tmp_path: Path, write_images: WriteImages) -> Path:
    """SUES-200, prepared, at 150 m: training places 1 and 2, query 3, distractor 4; 2 drone images each."""
    root = tmp_path / "sues"
    train, query, gallery = (1, 2), (3,), (1, 2, 3, 4)
    for folder, places in (("Training/150/", train), ("Testing/150/query_", query), ("Testing/150/gallery_", gallery)):
        for place in places:
            write_images(root, [f"{folder}drone/{place:04d}/{view}.jpg" for view in (0, 1)])
            write_images(root, [f"{folder}satellite/{place:04d}/0.png"])
    return root


@pytest.fixture(scope="session")
def raw_sues_once(tmp_path_factory: pytest.TempPathFactory, write_images: WriteImages) -> Path:
    """SUES-200, raw: all 200 places with 2 drone images at 150 m and 1 at 300 m; read only."""
    root = tmp_path_factory.mktemp("raw")
    for place in range(1, 201):
        write_images(root, [f"drone_view_512/{place:04d}/{name}.jpg" for name in ("150/0", "150/1", "300/0")])
        write_images(root, [f"satellite-view/{place:04d}/0.png"])
    return root


@pytest.fixture
def sues_raw(raw_sues_once: Path, tmp_path: Path) -> Path:
    """A copy of the raw tree to change."""
    return shutil.copytree(raw_sues_once, tmp_path / "raw")


@pytest.fixture
def cvusa(tmp_path: Path, write_images: WriteImages) -> Path:
    """CVUSA: training places 5, 2, 4 in this order, validation 3 and 1; place i lies at (30 + i, -90 - i) degrees."""
    root = tmp_path / "cvusa"
    (root / "splits").mkdir(parents=True)
    (root / "split_locations").mkdir()
    for split, places in (("train", (5, 2, 4)), ("val", (3, 1))):
        rows = [
            (f"bingmap/19/{i:07d}.jpg", f"streetview/panos/{i:07d}.jpg", f"streetview/annotations/{i:07d}.png")
            for i in places
        ]
        (root / f"splits/{split}-19zl.csv").write_text("".join(",".join(row) + "\n" for row in rows))
        write_images(root, [name for row in rows for name in row[:2]])
    lines = [f"0,0,{30 + i},{-90 - i},7\n" for i in range(1, 6)]
    (root / "split_locations/all.csv").write_text("".join(lines))
    return root


CVACT_IDS = ["aaa", "bbb", "ccc", "ddd", "eee", "fff"]


@pytest.fixture
def cvact(tmp_path: Path, write_images: WriteImages) -> Path:
    """CVACT: rows 0-5 are aaa-fff, at east 10 i and north 100 i m; train eee, aaa, ccc; val bbb; test fff, ddd, bbb."""
    root = tmp_path / "cvact"
    root.mkdir()
    for folder, names in (("ANU_data_small", "aaa bbb ccc eee"), ("ANU_data_test", "bbb ddd fff")):
        for name in names.split():
            write_images(root / folder, [f"streetview/{name}_grdView.jpg"])
            write_images(root / folder, [f"satview_polish/{name}_satView_polish.jpg"])
    content = {
        "panoIds": np.array(CVACT_IDS),
        "utm": np.array([[10.0 * i, 100.0 * i] for i in range(6)]),
        "trainSet": {"trainNum": 3, "trainInd": np.array([[5], [1], [3]])},
        "valSet": {"valNum": 1, "valInd": np.array([[2]])},
        "valSetAll": {"valNum": 3, "valInd": np.array([[6], [4], [2]])},
    }
    savemat(root / "ACT_data.mat", content)
    return root


CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")


def tile(city: str, number: int) -> str:
    """City c of the list has tiles 0-4 at latitude 40 + c + number / 100 and longitude -70 - c."""
    at = CITIES.index(city)
    return f"satellite_{40 + at + number / 100:.2f}_{-70 - at}.png"


@pytest.fixture
def vigor(tmp_path: Path, write_images: WriteImages) -> Path:
    """VIGOR as released: 4 cities of 5 tiles; in same area panorama p0 of tile 1 trains and p1 of tile 3 tests."""
    root = tmp_path / "vigor"
    for city in CITIES:
        rows = []
        for panorama, tiles in (("p0", (1, 0, 2, 4)), ("p1", (3, 4, 2, 1))):
            labels = " ".join(f"{tile(city, number)} -12.5 30.0" for number in tiles)
            rows.append(f"{city}_{panorama},41.2,-87.6,.jpg {labels}\n")
        lists = root / "splits" / city
        lists.mkdir(parents=True)
        (lists / "satellite_list.txt").write_text("".join(f"{tile(city, number)}\n" for number in range(5)))
        (lists / "same_area_balanced_train.txt").write_text(rows[0])
        (lists / "same_area_balanced_test.txt").write_text(rows[1])
        (lists / "pano_label_balanced.txt").write_text("".join(rows))
        write_images(root / city, [f"panorama/{row.split()[0]}" for row in rows])
        write_images(root / city, [f"satellite/{tile(city, number)}" for number in range(5)])
    return root
