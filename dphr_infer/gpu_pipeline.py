"""Frame -> preprocess -> network -> match on one GPU, as one graph launch; of a frame only its matches come back.

    frame (host) ─copy─> preprocess.cu ─> model input ─> TensorRT ─> embeddings ─> topk.cu ─copy─> rows, similarity

The stages share one stream and hand over device memory: the network writes its embeddings where the scan reads its
queries. The graph of a frame size is captured at its second frame; then a frame costs a copy into pinned memory, one
launch and one wait. Proven against `Preprocess`, ONNX Runtime and the plain matcher by running the kernels on a CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dphr_infer.bundle import Bundle, Precision
from dphr_infer.cuda import Buffer, Cuda, open_cuda
from dphr_infer.cuda_graph import GraphCache
from dphr_infer.engines.engine_cache import EngineCache
from dphr_infer.engines.onnxrt import Shape
from dphr_infer.engines.trt import DeviceNetwork, open_network
from dphr_infer.errors import EngineError, GalleryError
from dphr_infer.kernels.fatbin import load_fatbin
from dphr_infer.kernels.preprocess_launch import DevicePreprocess
from dphr_infer.matchers.base import check_gallery, check_ranges
from dphr_infer.matchers.device_scan import MAX_RANGES, DeviceScan, Limits
from dphr_infer.nv12 import FrameFormat, rgb_frames
from dphr_infer.one_at_a_time import OneAtATime
from dphr_infer.types import Matches

MAX_FORMATS = 8
DEFAULT_MAX_K = 32
STAGES = ("copy and preprocess", "network", "match and copy")
# Halves in 16 bytes: the scan pads its queries to whole vectors, a network writes them without gaps.
VECTOR_VALUES = 8


@dataclass(frozen=True, slots=True)
class _Format:
    """What a launch is opened for: the frames' bytes, and whether they are turned."""

    frame: FrameFormat
    turned: bool


class GpuPipeline:
    """Matches frames on the first GPU. A context manager; enter and leave it in one thread.

    A call while another runs is refused.

    Everything is taken in `__enter__` and at the first frame of a size, and given back in `__exit__`, also after an
    error. Two pipelines can be open at once; they share the GPU's primary context and nothing else.

    Args:
        bundle: whose model embeds.
        gallery: float16 or float32 (N, D), rows of unit length; float16 on the device.
        precision: of the model.
        max_k: the largest number of matches, 1..1024.
        cache: where plans lie; None takes the user's own.
        device: CUDA's number of the GPU.

    Raises:
        GalleryError: the rows are of another length than the bundle's embeddings.
        EngineError: embeddings whose length is no multiple of 8.
    """

    def __init__(
        self,
        bundle: Bundle,
        gallery: NDArray[np.float16] | NDArray[np.float32],
        precision: Precision = "fp16",
        max_k: int = DEFAULT_MAX_K,
        cache: EngineCache | None = None,
        device: int = 0,
    ) -> None:
        check_gallery(gallery)
        dim = bundle.manifest.dim
        if gallery.shape[1] != dim:
            raise GalleryError(
                f"The gallery's rows have {gallery.shape[1]} values, the bundle's embeddings {dim}: index the map "
                "again with this bundle."
            )
        if dim % VECTOR_VALUES:
            raise EngineError(
                f"Embeddings of {dim} values are no multiple of {VECTOR_VALUES}, which one launch from frame to match "
                "needs. Embed and match apart, or train with a projection of such a length."
            )
        self._bundle, self._gallery, self._path = bundle, gallery, bundle.model_path(precision)
        self._max_k = min(max_k, len(gallery))
        self._cache, self._device = cache if cache is not None else EngineCache(), device
        self._one = OneAtATime("The GPU's pipeline")
        self._cuda: Cuda | None = None

    def __enter__(self) -> GpuPipeline:
        if self._cuda is not None:
            raise EngineError("The GPU's pipeline is entered twice: open a second one.")
        size = self._bundle.manifest.preprocess
        shape = Shape(size.height_px, size.width_px, self._bundle.manifest.dim)
        with ExitStack() as stack:
            cuda = stack.enter_context(open_cuda(self._device))
            properties = cuda.properties
            self._image = load_fatbin(properties.capability, properties.driver, stem="preprocess")
            with cuda.active():
                limits = Limits(len(self._gallery), shape.dim, 1, self._max_k)
                scan = DeviceScan(cuda, load_fatbin(properties.capability, properties.driver), limits, "fp16")
                scan.put_rows(0, self._gallery)
                images = cuda.allocate(shape.height_px * shape.width_px * 3, "the model's input")
            network = open_network(cuda, self._path, shape, 1, self._cache, images, scan.queries)
            stack.callback(network.close)
            stack.pop_all()
        self._cuda, self._scan, self._network, self._images = cuda, scan, network, images
        self._graphs, self._formats = GraphCache(cuda), dict[_Format, DevicePreprocess]()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cuda, self._cuda = self._cuda, None
        if cuda is None:
            return
        network: DeviceNetwork = self._network
        try:
            with cuda.active():
                self._graphs.__exit__(kind, error, trace)
                network.close()
        finally:
            cuda.__exit__(kind, error, trace)

    def match(
        self,
        image: NDArray[np.uint8],
        k: int,
        clockwise_deg: float | None = None,
        row_ranges: Sequence[tuple[int, int]] | None = None,
        frame: FrameFormat | None = None,
    ) -> Matches:
        """The gallery rows most similar to a frame; waits for the GPU once.

        Args:
            image: uint8 (H, W, 3), RGB, or the bytes of `frame`.
            k: 1..max_k, at most the rows allowed.
            clockwise_deg: turn the frame so far and take its largest square first; None takes it as it is.
            row_ranges: as `Matcher.match` takes them, at most 4096.
            frame: what the bytes mean; None is RGB without gaps.

        Returns:
            One query's matches: rows (1, k).

        Raises:
            ImageError: the frame is of a size that cannot be brought to the model's.
            GalleryError: k or a range is out of bounds.
            EngineError: not open, more than 8 frame formats, or the GPU refused.
        """
        cuda = self._opened()
        ranges = check_ranges(row_ranges, len(self._gallery), k)
        if not 1 <= k <= self._max_k or len(ranges) > MAX_RANGES:
            raise GalleryError(
                f"{k} matches in {len(ranges)} ranges were asked for; this pipeline was opened for 1..{self._max_k} "
                f"matches and takes at most {MAX_RANGES} ranges: ask for fewer."
            )
        layout = frame if frame is not None else rgb_frames(image.shape[1], image.shape[0])
        with self._one, cuda.active():
            opened = self._open_format(cuda, _Format(layout, clockwise_deg is not None))
            opened.stage([image], None if clockwise_deg is None else [clockwise_deg])
            launch = self._scan.ready(1, k, ranges)

            def work() -> None:
                opened.enqueue(1)
                self._network.enqueue(1)
                self._scan.enqueue(launch)

            allowed = sum(stop - start for start, stop in ranges)
            self._graphs.run((layout, clockwise_deg is not None, k, len(ranges), allowed), work)
            found = self._scan.collect(launch)
        if not np.isfinite(found.similarity).all():
            raise EngineError(
                f"{self._path.name} gave an embedding that is not finite on the GPU: plan or weights are damaged. "
                "Remove the plan from the engine cache; if it stays, export the bundle again."
            )
        return Matches(found.rows, found.similarity)

    def stage_ms(self, image: NDArray[np.uint8], k: int, frame: FrameFormat | None = None) -> dict[str, float]:
        """Milliseconds of each stage on the GPU for one frame, by events, started one by one and not as a graph.

        Arguments and errors as in `match`.
        """
        cuda = self._opened()
        layout = frame if frame is not None else rgb_frames(image.shape[1], image.shape[0])
        with self._one, cuda.active():
            opened = self._open_format(cuda, _Format(layout, False))
            opened.stage([image])
            launch = self._scan.ready(1, k, ((0, len(self._gallery)),))
            marks = [cuda.record()]
            for work in (
                lambda: opened.enqueue(1),
                lambda: self._network.enqueue(1),
                lambda: self._scan.enqueue(launch),
            ):
                work()
                marks.append(cuda.record())
            self._scan.collect(launch)
            times = [cuda.elapsed_ms(start, stop) for start, stop in itertools.pairwise(marks)]
        return dict(zip(STAGES, times, strict=True))

    def _opened(self) -> Cuda:
        if self._cuda is None:
            raise EngineError("The GPU's pipeline is not open: use it inside a with statement.")
        return self._cuda

    def _open_format(self, cuda: Cuda, key: _Format) -> DevicePreprocess:
        if (opened := self._formats.get(key)) is not None:
            return opened
        if len(self._formats) == MAX_FORMATS:
            raise EngineError(
                f"Frames of {MAX_FORMATS} sizes have come, and one of {key.frame.width_px}x{key.frame.height_px} px "
                "would be one more; memory is taken for each. Locate them in several runs."
            )
        images: Buffer = self._images
        opened = DevicePreprocess(
            cuda, self._image, key.frame, self._bundle.manifest.preprocess, turned=key.turned, images=images
        )
        self._formats[key] = opened
        return opened
