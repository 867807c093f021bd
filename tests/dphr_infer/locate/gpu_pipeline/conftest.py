"""A stand-in of a GPU on which the kernels run, a gallery, and what a CPU answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dphr_infer.cuda.topk import matcher as cuda_exact
from dphr_infer.engines.embedder import Embedder
from dphr_infer.files.gallery import open_gallery
from dphr_infer.images.rotation import rotate_square
from dphr_infer.indexing.index import index
from dphr_infer.locate import gpu_pipeline
from dphr_infer.locate.devices import open_engine
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.types import Matches


@pytest.fixture
def gpu(gpu_stand_in: Any, kernels_on_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(gpu_pipeline, "load_fatbin", lambda capability, version, stem="topk": b"image")
    monkeypatch.setattr(cuda_exact, "load_fatbin", lambda capability, version: b"image")
    return gpu_stand_in(max_batch=1, cpu=kernels_on_cpu)


@pytest.fixture(scope="module")
def gallery(bundle: Any, texture: Any) -> np.ndarray:
    """float16 (120, 48): embeddings of random pictures."""
    images = [texture(32, 32, seed) for seed in range(120)]
    with open_engine(bundle) as engine:
        return Embedder(bundle.manifest.preprocess, engine).embed_images(images).astype(np.float16)


@pytest.fixture(scope="module")
def image(texture: Any) -> np.ndarray:
    """The map's pixels."""
    return texture(300, 400, 5)


@pytest.fixture(scope="module")
def map_gallery(bundle: Any, image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The gallery of a map of 200 x 150 m: 35 tiles of 50 m."""
    rasterio = pytest.importorskip("rasterio")
    folder = tmp_path_factory.mktemp("map")
    profile = {"driver": "GTiff", "height": 300, "width": 400, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    place = rasterio.transform.Affine(0.5, 0, 5e5, 0, -0.5, 5.2e6)
    with rasterio.open(folder / "map.tif", "w", transform=place, **profile) as dataset:
        dataset.write(np.moveaxis(image, 2, 0))
    index(folder / "map.tif", bundle=bundle, out=folder / "g", tile_m=50.0, stride_m=25.0)
    return open_gallery(folder / "g")


@pytest.fixture
def expected(bundle: Any, gallery: np.ndarray) -> Any:
    """A function: the CPU's answer for an RGB image."""

    def find(image: np.ndarray, k: int, clockwise_deg: float | None = None, ranges: Any = None) -> Matches:
        if clockwise_deg is not None:
            image = rotate_square(image, clockwise_deg, 32)
        with open_engine(bundle) as engine, NumpyExactMatcher(gallery) as matcher:
            return matcher.match(Embedder(bundle.manifest.preprocess, engine).embed_images([image]), k, ranges)

    return find


@pytest.fixture
def assert_agree() -> Callable[[Matches, Matches], None]:
    """A function: the same rows, similarities as near as float32 sums in another order are."""

    def compare(found: Matches, expected: Matches) -> None:
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_allclose(found.similarity, expected.similarity, atol=2e-6)

    return compare
