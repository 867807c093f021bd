from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dphr_infer.errors import ExportError
from dphr_infer.geo import offset
from dphr_infer.types import GeoPoint
from export.calibrate.site import moves_m, open_sites, part_of, units_of
from export.request import CalibrateRequest

HERE = GeoPoint(47.0, 8.0)


def test_a_path_is_cut_into_stretches_of_one_tile_side() -> None:
    points = [offset(HERE, east, 0.0) for east in (0.0, 40.0, 99.0, 101.0, 60.0, 60.0, 150.0)]
    # Metres flown: 0, 40, 99, 101, 142, 142, 232; back over the same ground is new flight.
    assert units_of(points, 100.0).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert moves_m(points)[:, 0] == pytest.approx([40, 59, 2, -41, 0, 90], abs=0.01)
    assert moves_m(points[:1]).shape == (0, 2)


def test_a_site_has_an_embedding_for_each_photo_and_a_first_one_for_each_stretch(sites) -> None:
    site = sites[0]
    assert site.name == "town-11" and len(site.queries) == len(site.truth) == len(site.unit) == 48
    # 17 m a step and 50 m between legs of 187 m: the first photos at or beyond 60, 120, … of 898 m.
    assert site.firsts() == [0, 4, 8, 11, 13, 16, 20, 23, 25, 28, 32, 35, 37, 41, 44]
    assert np.linalg.norm(site.queries, axis=1) == pytest.approx(1.0, abs=1e-3)
    assert site.made.shape == (4, site.queries.shape[1])
    # Right after its photo the tile there is most similar, on most of them.
    best = [int(np.argmax(np.asarray(site.gallery.embeddings, np.float32) @ query)) for query in site.queries]
    near = [site.gallery.distances_m(point)[row] < 60 for point, row in zip(site.truth, best, strict=True)]
    assert np.mean(near) > 0.5


def test_part_of_a_gallery_keeps_places_and_embeddings_together(sites) -> None:
    gallery = sites[0].gallery
    part = part_of(gallery, np.array([3, 7]))
    assert len(part) == 2 and part.point(1) == gallery.point(7)
    assert (np.asarray(part.embeddings) == np.asarray(gallery.embeddings)[[3, 7]]).all()


def copied(flights: list[Path], folder: Path) -> Path:
    shutil.copytree(flights[0], folder)
    return folder


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("mosaic.tif", r"is no flight: it holds 0 GeoTIFFs \(\*\.tif\), photos/ and truth\.csv; expected one map"),
        ("truth.csv", r"is no flight: it holds 1 GeoTIFFs \(\*\.tif\), photos/ and no truth\.csv"),
        ("photos", r"is no flight: it holds 1 GeoTIFFs \(\*\.tif\), no photos/ and truth\.csv"),
    ],
)
def test_what_is_no_flight_is_told_what_it_lacks(flights, tmp_path: Path, lost: str, words: str) -> None:
    folder = copied(flights, tmp_path / "f")
    shutil.rmtree(folder / lost) if lost == "photos" else (folder / lost).unlink()
    request = CalibrateRequest(Path("b"), (folder,), Path("o"), 60.0, 20.0)
    with pytest.raises(ExportError, match=words):
        open_sites(None, request, tmp_path)  # type: ignore[arg-type]


def test_a_map_is_held_out_once(flights, tmp_path: Path) -> None:
    request = CalibrateRequest(Path("b"), (flights[0], flights[0]), Path("o"), 60.0, 20.0)
    with pytest.raises(ExportError, match="Two of the flights have the same name"):
        open_sites(None, request, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"alpha": 0.0}, "`alpha` is 0; expected a share above 0 and at most 0.5"),
        ({"alpha": 0.6}, "`alpha` is 0.6"),
        ({"flights": ()}, "No flight was named"),
        ({"heading": "search"}, '`heading` is "search"'),
    ],
)
def test_a_request_that_cannot_work_is_refused(given: dict, words: str) -> None:
    values = {"bundle": Path("b"), "flights": (Path("f"),), "out": Path("o"), "tile_m": 60.0, "stride_m": 20.0, **given}
    with pytest.raises(ExportError, match=words):
        CalibrateRequest(**values)
