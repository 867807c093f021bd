"""A real bundle of a few kilobytes: its model averages the picture over a grid and normalises the centred means."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_pycuda
import fake_tensorrt
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save_file
from town_site import TownSite, write_town

from dphr_infer.cuda import driver as cuda
from dphr_infer.cuda import graph as cuda_graph
from dphr_infer.cuda.build import source_of
from dphr_infer.engines.tensorrt import engine as trt
from dphr_infer.engines.tensorrt.api import Api, Capabilities
from dphr_infer.engines.tensorrt.cached import CachedPlan
from dphr_infer.files.bundle import Bundle, Manifest, Parity, digest_files, open_bundle
from dphr_infer.files.calibration import Calibration, Promise, VerdictCalibration
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.matchers import block_scan

# How fast examples are drawn says how busy the machine is; Hypothesis 6.100 draws bytes one by one.
settings.register_profile("dphr", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dphr")

SIDE_PX = 32
GRID = 4
DIM = GRID * GRID * 3


def reference_embedding(images: np.ndarray) -> np.ndarray:
    """What the test model computes, in NumPy: uint8 (B, 32, 32, 3) -> float32 (B, 48)."""
    cell = SIDE_PX // GRID
    cells = images.astype(np.float64).reshape(-1, GRID, cell, GRID, cell, 3).mean(axis=(2, 4))
    centred = (cells - cells.mean(axis=(1, 2), keepdims=True)).transpose(0, 3, 1, 2).reshape(-1, DIM)
    centred[:, 0] += 1.0  # a plain picture has an embedding too
    return (centred / np.linalg.norm(centred, axis=1, keepdims=True)).astype(np.float32)


def grid_model(
    path: Path,
    *,
    input_name: str = "images",
    output_name: str = "embeddings",
    batch: str | int = "batch",
    bias: float = 1.0,
    normalise: bool = True,
) -> None:
    """Write the test model as ONNX."""
    first = np.zeros((1, DIM), np.float32)
    first[0, 0] = bias
    initializers = [
        numpy_helper.from_array(first, "first"),
        numpy_helper.from_array(np.array([0, DIM], np.int64), "flat"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "space"),
        numpy_helper.from_array(np.array([1], np.int64), "last"),
    ]
    cell = SIDE_PX // GRID
    nodes = [
        helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("ReduceMean", ["cells", "space"], ["mean"]),
        helper.make_node("Sub", ["cells", "mean"], ["centred"]),
        helper.make_node("Reshape", ["centred", "flat"], ["rows"]),
        helper.make_node("Add", ["rows", "first"], ["biased"]),
        helper.make_node("ReduceL2", ["biased", "last"], ["length"]),
        helper.make_node("Div" if normalise else "Mul", ["biased", "length"], [output_name]),
    ]
    graph = helper.make_graph(
        nodes,
        "grid",
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, [batch, SIDE_PX, SIDE_PX, 3])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, [batch, DIM])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture without repetition: smooth coloured noise, uint8 (height, width, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def write_bundle(folder: Path, *, encoder: str = "grid", preprocess: Preprocess | None = None) -> Bundle:
    """Write and open a bundle around the test model."""
    (folder / "selftest/images").mkdir(parents=True)
    grid_model(folder / "model.fp32.onnx")
    images = np.stack([texture(SIDE_PX, SIDE_PX, seed) for seed in range(3)])
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"selftest/images/{number}.png")
    save_file({"embeddings": reference_embedding(images)}, folder / "selftest/embeddings.safetensors")
    manifest = Manifest(
        encoder=encoder,
        dim=DIM,
        max_batch=16,
        preprocess=preprocess or Preprocess(SIDE_PX, SIDE_PX, "bilinear"),
        files=digest_files(folder),
        parity={"fp32": Parity(1.0, 1.0, 0.0, 0.0, 3)},
        origin={"made_by": "tests"},
    )
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return open_bundle(folder)


@pytest.fixture(scope="session", name="texture")
def texture_fixture() -> Callable[..., np.ndarray]:
    """`texture(height, width, seed)`."""
    return texture


@pytest.fixture(scope="session", name="reference_embedding")
def reference_embedding_fixture() -> Callable[[np.ndarray], np.ndarray]:
    """`reference_embedding(images)`."""
    return reference_embedding


@pytest.fixture
def write_map(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a GeoTIFF from an image; the upper left corner lies at (west, north) of the crs."""

    def write(
        image: np.ndarray,
        *,
        crs: str | None = "EPSG:32632",
        west: float = 400_000.0,
        north: float = 5_200_000.0,
        px: float | tuple[float, float] = 0.5,
        name: str = "map.tif",
        turn_deg: float = 0.0,
        **options: object,
    ) -> Path:
        import rasterio
        from rasterio.enums import ColorInterp
        from rasterio.transform import Affine

        bands = np.moveaxis(image, 2, 0)
        across, down = (px, px) if isinstance(px, float) else px
        profile: dict[str, object] = {
            "driver": "GTiff",
            "height": image.shape[0],
            "width": image.shape[1],
            "count": len(bands),
            "dtype": image.dtype,
            **options,
        }
        if crs is not None:
            cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
            transform = Affine(across * cos, down * sin, west, across * sin, -down * cos, north)
            profile |= {"crs": crs, "transform": transform}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(tmp_path / name, "w", **profile) as dataset:
                dataset.write(bands)
                if len(bands) == 4:
                    dataset.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The test bundle."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "grid")


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same model under another name, hence with another digest."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "other", encoder="another grid")


@pytest.fixture(scope="session")
def calibration() -> Callable[..., Calibration]:
    """A function: the calibration of the test bundle, with other values of the verdict and of the promise."""

    def make(
        floor: float | None = -1.0,
        margin: float | None = 0.0,
        tile_m: float = 60.0,
        stride_m: float = 30.0,
        **promise: Any,
    ) -> Calibration:
        verdict = VerdictCalibration(floor, margin, 0.05, 136, {"another map": 0.0074}, 0.25)
        filled: dict[str, Any] = {
            "rank_shape": 2.5,
            "rank_scale": 0.5,
            "outlier_share": 0.1,
            "fix_mass": 0.97,
            "fix_factor": 0.3,
            "track_factor": 0.4,
            "alpha": 0.05,
            "n": 120,
            "wrong": 1,
            "bound": 0.039,
            "availability": {"right": 0.75, "wrong": 0.0},
            "anees": 2.1,
            "anees_low": 1.7,
            "anees_high": 2.4,
            "confirmed_ranks": (60, 20, 10, 5, 5),
            **promise,
        }
        return Calibration(tile_m, stride_m, "2026-11-29", ("201", "202"), verdict, Promise(**filled))

    return make


@pytest.fixture(scope="session")
def calibrated(bundle: Bundle, calibration: Callable[..., Calibration]) -> Callable[..., Bundle]:
    """A function: the test bundle, opened as if it stated this calibration; its galleries are the test bundle's."""

    def make(**values: Any) -> Bundle:
        return dataclasses.replace(
            bundle, manifest=dataclasses.replace(bundle.manifest, calibration=calibration(**values))
        )

    return make


@pytest.fixture(scope="session")
def town_site(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> TownSite:
    """A generated town's map with its gallery, map pack and photos."""
    return write_town(tmp_path_factory.mktemp("town"), bundle)


@pytest.fixture
def with_model(bundle: Bundle, tmp_path: Path) -> Callable[..., Bundle]:
    """A function that gives the test bundle with another model file, its digests in order."""

    def build(**options: object) -> Bundle:
        folder = tmp_path / f"bundle{len(list(tmp_path.glob('bundle*')))}"
        write_bundle(folder)
        grid_model(folder / "model.fp32.onnx", **options)  # type: ignore[arg-type]
        manifest = dataclasses.replace(bundle.manifest, files=digest_files(folder))
        (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
        return open_bundle(folder)

    return build


@pytest.fixture(scope="session")
def kernels_on_cpu(cuda_on_cpu: Any) -> Any:
    """preprocess.cu and topk.cu on this processor."""
    devices = [cuda_on_cpu.build(source_of(stem)) for stem in ("preprocess", "topk")]
    kernels = {name: kinds for device in devices for name, kinds in device.kernels.items()}

    def launch(kernel: str, *arguments: Any, **options: Any) -> Any:
        return next(device for device in devices if kernel in device.kernels).launch(kernel, *arguments, **options)

    return SimpleNamespace(kernels=kernels, launch=launch)


@pytest.fixture
def gpu_stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function: stand-ins for the driver, its graphs and TensorRT's runtime; plans are the ONNX files themselves."""

    def make(max_batch: int, cpu: Any = None) -> Any:
        driver = fake_pycuda.FakeDriver(cpu=cpu)
        plain, streams = driver.Stream, []

        def stream(flags: int) -> Any:
            streams.append(plain(flags))
            driver.stream = streams[(len(streams) - 1) // 2 * 2]  # of the two that a GPU opens, the one for work
            return streams[-1]

        driver.Stream = stream
        monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
        monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
        monkeypatch.setattr(cuda, "pop_released_context", driver.raw_stack.pop)
        driver.graphs = fake_tensorrt.FakeGraphs(driver)
        monkeypatch.setattr(cuda_graph, "load_driver", lambda: driver.graphs)
        api = Api(
            "TensorRT", "10.3.0.30", fake_tensorrt.fake_module(driver, max_batch), Capabilities(True, True, False)
        )
        monkeypatch.setattr(trt, "open_tensorrt", lambda: api)
        driver.plan = None
        monkeypatch.setattr(trt, "cached_plan", lambda api, model, *rest: CachedPlan(Any, driver.plan or model, None))
        return driver

    return make


@pytest.fixture
def nv12_camera(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function: from now on a camera that OpenCV opens gives these arrays, once, and is of this V4L2 format.

    OpenCV's wheels have no GStreamer, and there is no device: only `cv2.VideoCapture` is stood in for.
    """
    cv2 = pytest.importorskip("cv2")

    def make(grabbed: list[np.ndarray], fourcc: str = "NV12") -> Any:
        seen, left = SimpleNamespace(opened=[], set_to=[], released=0), iter(grabbed)

        class Capture:
            def __init__(self, text: str, backend: int) -> None:
                seen.opened.append((text, backend))
                self.image: np.ndarray | None = None

            def isOpened(self) -> bool:
                return True

            def set(self, name: int, value: float) -> bool:
                seen.set_to.append((name, value))
                return True

            def get(self, name: int) -> float:
                return float(cv2.VideoWriter_fourcc(*fourcc)) if name == cv2.CAP_PROP_FOURCC else -1.0

            def grab(self) -> bool:
                self.image = next(left, None)
                return self.image is not None

            def retrieve(self) -> tuple[bool, np.ndarray | None]:
                return True, self.image

            def release(self) -> None:
                seen.released += 1

        monkeypatch.setattr(cv2, "VideoCapture", Capture)
        monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)
        return seen

    return make


@pytest.fixture(scope="module")
def threads_for_small_galleries() -> Iterator[None]:
    """The matchers of the CPU wake their threads for any gallery, however few its rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_scan, "_WORTH_THREADS", 0)
        yield
