"""What `import dphr_infer as dphr` promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dphr_infer as dphr

PROMISED = {
    *("DphrError", "GeoPoint", "LocateSettings", "LocationEstimate", "Localizer", "Prior", "__version__"),
    *("index", "open", "open_bundle", "open_gallery", "read_image"),
    *("Fix", "Flight", "NoFix", "Odometry"),
}


def test_the_door_has_these_names_and_no_other() -> None:
    assert set(dphr.__all__) == set(dir(dphr)) == PROMISED
    assert all(getattr(dphr, name) is not None for name in PROMISED)
    with pytest.raises(AttributeError, match="no attribute 'locate_everything'"):
        _ = dphr.locate_everything


def test_entering_loads_nothing_that_waits() -> None:
    code = "import sys, dphr_infer; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "PIL", "torch", "rasterio", "cv2", "onnxruntime", "tensorrt", "pycuda", "tyro"}
    assert heavy.isdisjoint(done.stdout.split())


def test_a_map_becomes_a_gallery_and_a_photo_a_position(bundle, texture, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    image = texture(300, 400, 5)
    profile = {"driver": "GTiff", "height": 300, "width": 400, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    place = rasterio.transform.Affine(0.5, 0, 5e5, 0, -0.5, 5.2e6)
    with rasterio.open(tmp_path / "map.tif", "w", transform=place, **profile) as dataset:
        dataset.write(np.moveaxis(image, 2, 0))
    made = dphr.index(str(tmp_path / "map.tif"), bundle=str(bundle.folder), out=tmp_path / "g", tile_m=50, stride_m=25)
    assert made.indexed == 35
    with dphr.open(str(bundle.folder), str(tmp_path / "g"), threads=1) as localizer:
        gallery = dphr.open_gallery(tmp_path / "g")
        centre = gallery.point(17)
        (fix,) = localizer.locate_each(
            [image[100:200, 150:250]], prior=dphr.Prior(centre.latitude_deg, centre.longitude_deg, radius_m=500)
        )
    assert fix.radius_m >= 12.5 and abs(fix.latitude_deg - centre.latitude_deg) < 0.01 and fix.source == ""
    feature = fix.to_geojson()
    assert feature["geometry"]["coordinates"] == [round(fix.longitude_deg, 7), round(fix.latitude_deg, 7)]
    assert repr(fix).startswith("<LocationEstimate photo: ") and f"±{fix.radius_m:.0f} m" in repr(fix)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dphr.open("none", "none"), "none is not a bundle"),
        (lambda: dphr.open_gallery("none"), "none is not a file"),
        (lambda: dphr.read_image("none.jpg"), r"none\.jpg does not exist"),
        (lambda: dphr.GeoPoint(200, 500), "latitude 200 and longitude 500; expected degrees"),
        (lambda: dphr.Prior(46, 8, radius_m=0), "`radius_m` is 0"),
        (lambda: dphr.index("map.tif", bundle="none", out="g", stride_m=2), "tile_m"),
        (lambda: dphr.LocateSettings(top_k=True), "`top_k` is True"),
    ],
)
def test_what_a_caller_gets_wrong_is_an_error_of_ours_by_the_parameters_name(call, message: str) -> None:
    with pytest.raises(dphr.DphrError, match=message):
        call()
