"""Flights over three generated towns, and the shipped bundle on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from generated_map import ArrayMap, town
from town_site import DOWN, GSD_M, SIZE, save_photo, write_map

from dphr_infer.files.bundle import open_bundle
from dphr_infer.geo import offset
from dphr_infer.maps.raster import MapRaster
from export.calibrate.site import Site, open_sites
from export.request import CalibrateRequest

BUNDLE = Path(__file__).resolve().parents[3] / "samples/bundle"
SIDE_PX, FRAMES, TILE_M, STRIDE_M = 700, 48, 60.0, 30.0


def path_m(number: int) -> tuple[float, float]:
    """Metres east and north of the map's middle: four legs to the north and back, 17 m from photo to photo."""
    leg, place = divmod(number, FRAMES // 4)
    north = -93.5 + 17.0 * place
    return -75.0 + 50.0 * leg, north if leg % 2 == 0 else -north


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders as `dphr-train cities flight` writes them: mosaic.tif, photos/, truth.csv."""
    root, folders = tmp_path_factory.mktemp("flights"), []
    for seed in (11, 12, 13):
        folder = root / f"town-{seed}"
        (folder / "photos").mkdir(parents=True)
        image = town(SIDE_PX, seed)
        write_map(folder / "mosaic.tif", image)
        with MapRaster(folder / "mosaic.tif") as raster:
            centre = raster.centre
        pixels, lines = ArrayMap(image, GSD_M, centre), ["photo,latitude_deg,longitude_deg"]
        for number in range(FRAMES):
            point = offset(centre, *path_m(number))
            lines.append(f"{number:02d}.jpg,{point.latitude_deg:.8f},{point.longitude_deg:.8f}")
            save_photo(folder / "photos" / f"{number:02d}.jpg", pixels.photo(point, DOWN, *SIZE), DOWN)
        (folder / "truth.csv").write_text("\n".join(lines) + "\n")
        folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def sites(flights: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Site]:
    """The towns indexed, the photos embedded."""
    request = CalibrateRequest(BUNDLE, tuple(flights), Path("unused"), TILE_M, STRIDE_M, threads=1)
    return open_sites(open_bundle(BUNDLE), request, tmp_path_factory.mktemp("galleries"))
