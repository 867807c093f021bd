"""Localizers that `open_localizer` opens on a GPU, against those on a CPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dphr_infer import open_localizer as open_localizer_module
from dphr_infer.errors import ImageError
from dphr_infer.gallery import open_gallery
from dphr_infer.indexing import index_map
from dphr_infer.open_localizer import open_localizer


@pytest.mark.parametrize("heading", ["as-is", "north"])
def test_a_localizer_on_the_gpu_says_what_the_cpus_says(
    gpu: Any, bundle: Any, texture: Any, tmp_path: Path, heading: Any
) -> None:
    rasterio = pytest.importorskip("rasterio")
    image = texture(300, 400, 5)
    profile = {"driver": "GTiff", "height": 300, "width": 400, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    place = rasterio.transform.Affine(0.5, 0, 5e5, 0, -0.5, 5.2e6)
    with rasterio.open(tmp_path / "map.tif", "w", transform=place, **profile) as dataset:
        dataset.write(np.moveaxis(image, 2, 0))
    index_map(bundle, tmp_path / "map.tif", tmp_path / "g", tile_m=50.0, stride_m=25.0)
    map_gallery = open_gallery(tmp_path / "g")
    with (
        open_localizer(bundle, map_gallery, heading=heading) as on_cpu,
        open_localizer(bundle, map_gallery, device="cuda", heading=heading) as on_gpu,
    ):
        for left in (0, 60, 200, 90):
            photo = np.ascontiguousarray(image[50:150, left : left + 120])
            for prior in ((), (map_gallery.point(10), 60.0)):
                expected, found = on_cpu.locate(photo, 10.0, *prior), on_gpu.locate(photo, 10.0, *prior)
                assert [p.row for p in found.places] == [p.row for p in expected.places]
                assert found.similarity == pytest.approx(expected.similarity, abs=2e-6)
                assert (found.point, found.rotation_deg) == (expected.point, expected.rotation_deg)
        photos = [np.ascontiguousarray(image[50:150, left : left + 120]) for left in (0, 60, 200)]
        many = on_gpu.locate_many(photos, [10.0, 20.0, 30.0])
        expected = on_cpu.locate_many(photos, [10.0, 20.0, 30.0])
        assert [found.point for found in many] == [found.point for found in expected]
        with pytest.raises(ImageError, match="The image is 8x8 px"):
            on_gpu.locate_many([photos[0], np.zeros((8, 8, 3), np.uint8)], [0.0, 0.0])
        assert on_gpu.locate(photos[2], 30.0).point == expected[2].point != expected[0].point
    assert gpu.graphs.launches >= 5 and not gpu.device_memory and gpu.retained == 0


def test_a_search_over_headings_embeds_and_matches_apart(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, bundle: Any
) -> None:
    entered = []
    monkeypatch.setattr(open_localizer_module, "GpuPipeline", lambda *_: entered.append("pipeline"))
    map_gallery = SimpleNamespace(embeddings=np.eye(48, dtype=np.float16), check_bundle=lambda _: None)
    with open_localizer(bundle, map_gallery, device="cuda", heading="search"):
        assert entered == [] and gpu.retained == 2  # the engine and the matcher
    assert gpu.retained == 0
