"""Frame -> preprocess -> network -> match on one GPU, as one graph launch; of a frame only its matches come back.

    frame (host) ─copy─> preprocess.cu ─> model input ─> TensorRT ─> embeddings ─> topk.cu ─copy─> rows, similarity

The stages share one stream and hand over device memory: the network writes its embeddings where the scan reads its
queries. The graph of a frame size is captured at its second frame; then a frame costs a copy into pinned memory, one
launch and one wait. The copy to the device runs in a stream of its own: with `submit` and `collect` the next frame's
hides behind this one's work. A GPU that shares the host's memory reads the frame in the pinned memory, and whoever
makes the frame can write it there (`frame_memory`): then nothing copies it. Proven against `Preprocess`, ONNX Runtime
and the plain matcher by running the kernels on a CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.build import load_fatbin
from dphr_infer.cuda.driver import Cuda, open_cuda
from dphr_infer.cuda.frames_in_flight import MOST, Flight, FramesInFlight
from dphr_infer.cuda.graph import GraphCache
from dphr_infer.cuda.one_at_a_time import OneAtATime
from dphr_infer.cuda.preprocess.launch import DevicePreprocess
from dphr_infer.cuda.preprocess.plan import Mode, Pose, mode_of
from dphr_infer.cuda.topk.launch import DeviceScan, Limits
from dphr_infer.cuda.topk.operands import view_outputs
from dphr_infer.cuda.topk.plan import MAX_K
from dphr_infer.engines.onnxruntime import Shape
from dphr_infer.engines.tensorrt.cache import EngineCache
from dphr_infer.engines.tensorrt.engine import DeviceNetwork, open_network
from dphr_infer.errors import EngineError, GalleryError, ImageError
from dphr_infer.files.bundle import Bundle, Precision
from dphr_infer.images.frame_format import FrameFormat, rgb_frames
from dphr_infer.matchers.base import check_gallery, check_ranges
from dphr_infer.types import Matches

MAX_FORMATS = 8
DEFAULT_MAX_K = 32
STAGES = ("copy and preprocess", "network", "match and copy")
# Halves in 16 bytes: the scan pads its queries to whole vectors, a network writes them without gaps.
VECTOR_VALUES = 8


@dataclass(frozen=True, slots=True)
class _Format:
    """What a launcher is opened for: the frames' bytes, what becomes of them first, and which of two on their way."""

    frame: FrameFormat
    mode: Mode
    slot: int


class GpuPipeline:
    """Matches frames on the first GPU. A context manager; enter and leave it in one thread, while no call runs.

    Threads: frames may come from any thread, but of one at a time. A call while another thread's runs is refused; so is
    every call while another thread has frames on their way or memory for its next one, until it collects or drops them.

    Everything is taken in `__enter__` and at the first frame of a size, and given back in `__exit__`, also after an
    error. Two pipelines can be open at once; they share the GPU's primary context and nothing else.

    Args:
        bundle: whose model embeds.
        gallery: float16 or float32 (N, D), rows of unit length; float16 on the device.
        precision: of the model.
        max_k: the largest number of matches, 1..1024.

    Raises:
        GalleryError: the rows are of another length than the bundle's embeddings.
        EngineError: embeddings whose length is no multiple of 8, or max_k is out of range.
    """

    def __init__(
        self,
        bundle: Bundle,
        gallery: NDArray[np.float16] | NDArray[np.float32],
        precision: Precision = "fp16",
        max_k: int = DEFAULT_MAX_K,
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
        if not 1 <= max_k <= MAX_K:
            raise EngineError(f"max_k is {max_k}; the GPU's kernels take 1..{MAX_K}: ask for fewer matches.")
        self._bundle, self._gallery, self._path = bundle, gallery, bundle.model_path(precision)
        self._max_k = min(max_k, len(gallery))
        self._one = OneAtATime("The GPU's pipeline")
        self._cuda: Cuda | None = None
        self._flights = FramesInFlight("The GPU's pipeline")

    def __enter__(self) -> GpuPipeline:
        if self._cuda is not None:
            raise EngineError("The GPU's pipeline is entered twice: open a second one.")
        size = self._bundle.manifest.preprocess
        shape = Shape(size.height_px, size.width_px, self._bundle.manifest.dim)
        with ExitStack() as stack:
            cuda = stack.enter_context(open_cuda())
            properties = cuda.properties
            self._image = load_fatbin(properties.capability, properties.driver, stem="preprocess")
            with cuda.active():
                limits = Limits(len(self._gallery), shape.dim, 1, self._max_k)
                scan = DeviceScan(cuda, load_fatbin(properties.capability, properties.driver), limits, "fp16")
                scan.put_rows(0, self._gallery)
                images = cuda.allocate(shape.height_px * shape.width_px * 3, "the model's input")
                self._outputs = [cuda.pinned(scan.output_bytes) for _ in range(MOST)]
            network = open_network(cuda, self._path, shape, 1, EngineCache(), images, scan.queries)
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
        self._flights.forget()
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
        pose: Pose = None,
        row_ranges: Iterable[tuple[int, int]] | None = None,
        frame: FrameFormat | None = None,
    ) -> Matches:
        """The gallery rows most similar to a frame; waits for the GPU once.

        Args:
            image: uint8 (H, W, 3), RGB, or the bytes of `frame`.
            k: 1..max_k, at most the rows allowed.
            pose: degrees turn the frame so far clockwise and take its largest square first; a `GroundSquare` of the
                model's longer side rectifies it; None takes it as it is.
            row_ranges: as `Matcher.match` takes them.
            frame: what the bytes mean; None is RGB without gaps.

        Returns:
            One query's matches: rows (1, k).

        Raises:
            ImageError: the frame is of a size that cannot be brought to the model's, or not (H, W, 3) and without
                `frame`; the angle is not finite; the frame shows nothing of the square.
            GalleryError: k or a range is out of bounds.
            EngineError: not open, in use by another thread, frames of `submit` are on their way, more than 8 frame
                formats, or the GPU refused.
        """
        with self._in_turn() as cuda:
            if self._flights:
                raise EngineError(f"{len(self._flights)} submitted frames are on their way: collect them first.")
            self._start(cuda, image, k, pose, row_ranges, frame)
            return self._finish()

    def submit(
        self,
        image: NDArray[np.uint8],
        k: int,
        pose: Pose = None,
        row_ranges: Iterable[tuple[int, int]] | None = None,
        frame: FrameFormat | None = None,
    ) -> None:
        """Start a frame and do not wait: while one is computed, the next is copied. At most two are on their way.

        Arguments and errors as in `match`; `collect` gives the answers in the same order.
        """
        with self._in_turn() as cuda:
            self._start(cuda, image, k, pose, row_ranges, frame)

    def _start(
        self,
        cuda: Cuda,
        image: NDArray[np.uint8],
        k: int,
        pose: Pose,
        row_ranges: Iterable[tuple[int, int]] | None,
        frame: FrameFormat | None,
    ) -> None:
        ranges = self._checked_ranges(row_ranges, k)
        slot = self._flights.next_slot()
        layout, mode = _format_of(image, frame), mode_of(pose)
        opened = self._open_format(cuda, _Format(layout, mode, slot))
        opened.stage(image, pose)
        if self._flights and not self._scan.has_ranges(ranges):
            cuda.synchronize()  # the frame before reads its ranges from where these go
        launch = self._scan.ready(1, k, ranges)
        opened.upload_ahead()

        def work() -> None:
            opened.launch()
            self._network.enqueue(1)
            self._scan.enqueue(launch, self._outputs[slot])

        allowed = sum(stop - start for start, stop in ranges)
        self._graphs.run((slot, layout, mode, k, len(ranges), allowed, self._scan.range_capacity), work)
        self._flights.add(Flight(slot, k, cuda.record()))

    def frame_memory(self, frame: FrameFormat, mode: Mode = "upright") -> NDArray[np.uint8]:
        """Pinned memory for the next frame, for a camera or decoder to write into; `submit` and `match` then copy none.

        Write the whole frame, then give this array, or the (H, W, 3) that it is reshaped to, to the next `submit` or
        `match`; from then on it is the GPU's until that frame is collected. Ask again for every frame. It is freed when
        the pipeline is left: read or write no array of it after that.

        Args:
            frame: what the bytes will mean.
            mode: how the frame will be submitted: as it is, with an angle, or with a square of ground.

        Returns:
            uint8 (frame.padded_bytes,), valid until the pipeline is left.

        Raises:
            ImageError: as of `match`.
            EngineError: not open, in use by another thread, two frames are on their way, or more than 8 frame formats.
        """
        with self._in_turn() as cuda:
            slot = self._flights.next_slot()
            memory = self._open_format(cuda, _Format(frame, mode, slot)).frame_memory()
            self._flights.lend(slot)
            return memory

    def collect(self) -> Matches:
        """Wait for the oldest submitted frame; its matches.

        Raises:
            EngineError: none was submitted, in use by another thread, the embedding is not finite, or the GPU refused.
        """
        with self._in_turn():
            return self._finish()

    def _finish(self) -> Matches:
        flight = self._flights.take_oldest()
        flight.done.synchronize()
        found = view_outputs(self._outputs[flight.slot], 1, flight.k)
        if not np.isfinite(found.similarity).all():
            raise EngineError(
                f"{self._path.name} gave an embedding that is not finite on the GPU: plan or weights are damaged. "
                "Remove the plan from the engine cache; if it stays, export the bundle again."
            )
        return Matches(found.rows.copy(), found.similarity.copy())

    def drop(self) -> None:
        """Forget this thread's frames that nobody collected, once the GPU is done with them, and what it was lent.

        Another thread's are left alone, but for those of a thread that has ended.
        """
        if self._flights.may_forget():
            with self._one, self._opened().active():
                self._flights.forget()
                self._opened().synchronize()

    def stage_ms(self, image: NDArray[np.uint8], k: int, frame: FrameFormat | None = None) -> dict[str, float]:
        """Milliseconds of each stage on the GPU for one frame, by events, started one by one and not as a graph.

        Arguments and errors as in `match`.
        """
        with self._in_turn() as cuda:
            ranges = self._checked_ranges(None, k)
            opened = self._open_format(cuda, _Format(_format_of(image, frame), "upright", 0))
            cuda.synchronize()
            opened.stage(image)
            launch = self._scan.ready(1, k, ranges)
            marks = [cuda.record()]
            for work in (
                opened.enqueue,
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

    @contextmanager
    def _in_turn(self) -> Iterator[Cuda]:
        """One call of the thread whose turn it is, with the GPU's context current."""
        with self._one:
            cuda = self._opened()
            self._flights.check_thread()
            with cuda.active():
                yield cuda

    def _checked_ranges(self, row_ranges: Iterable[tuple[int, int]] | None, k: int) -> tuple[tuple[int, int], ...]:
        ranges = check_ranges(row_ranges, len(self._gallery), k)
        if not 1 <= k <= self._max_k:
            raise GalleryError(
                f"{k} matches were asked for; this pipeline was opened for 1..{self._max_k}: ask for fewer."
            )
        return ranges

    def _open_format(self, cuda: Cuda, key: _Format) -> DevicePreprocess:
        if (opened := self._formats.get(key)) is not None:
            return opened
        if sum(known.slot == key.slot for known in self._formats) == MAX_FORMATS:
            raise EngineError(
                f"Frames of {MAX_FORMATS} formats have come (size, pixels, turned or rectified or not), and one of "
                f"{key.frame.width_px}x{key.frame.height_px} px would be one more; memory is taken for each. Locate "
                "them in several runs."
            )
        size = self._bundle.manifest.preprocess
        opened = DevicePreprocess(cuda, self._image, key.frame, size, mode=key.mode, images=self._images)
        self._formats[key] = opened
        return opened


def _format_of(image: NDArray[np.uint8], frame: FrameFormat | None) -> FrameFormat:
    """What is announced, or RGB of the picture's size."""
    if frame is not None:
        return frame
    if image.ndim != 3:
        raise ImageError(f"The frame is an array {image.shape}, not a picture (H, W, 3): give frame=, what it means.")
    return rgb_frames(image.shape[1], image.shape[0])
