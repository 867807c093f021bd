"""Exact search on an NVIDIA GPU: one launch per query batch over float16 rows, or int8 rows with a proof.

The answers are exact for the gallery's rows as float16: a float32 gallery is rounded to float16 once, on its way to the
device, which moves a similarity by at most 2^-11. Equal similarities go to the lower row; the same call gives the same
bits every time on one GPU.

An int8 scan reads half the bytes. It keeps the candidates of highest upper bound, ranks them by their float16 rows, and
the answer stands only where the k-th best is better than anything that was left out can be. Queries that this does not
prove are scanned again with four times the candidates, and at last by float16.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.build import load_fatbin
from dphr_infer.cuda.driver import Cuda, open_cuda
from dphr_infer.cuda.memory import gallery_bytes, room_on
from dphr_infer.cuda.one_at_a_time import OneAtATime
from dphr_infer.cuda.topk.launch import DeviceScan, Limits
from dphr_infer.cuda.topk.operands import ScanDtype
from dphr_infer.cuda.topk.plan import MAX_K, MAX_QUERIES
from dphr_infer.errors import EngineError, GalleryError
from dphr_infer.matchers.base import check_gallery, check_queries, check_ranges
from dphr_infer.matchers.proof import Ranked, first_candidates, match_proven
from dphr_infer.types import Matches

# Of rows that a streamed gallery copies to the GPU at a time, at most.
STREAM_BYTES = 256 << 20
DEFAULT_MAX_K = 32
_FEWEST_CANDIDATES = 32
# Work that keeps the GPU busy, while the host queues what is timed behind it: 1 GiB of zeros, in parts that fit beside
# a gallery, then the same scan a few times, so that the caches are as in a call after another.
_BRAKE_BYTES, _BRAKES = 16 << 20, 64
_SCANS_AHEAD = 3

Ranges = tuple[tuple[int, int], ...]

_log = logging.getLogger(__name__)


class CudaExactMatcher:
    """Exact top k on a GPU. See `Matcher` for what it promises; a call waits for the GPU once per batch.

    Memory is taken in `__enter__` for the stated maxima, and given back in `__exit__`, also after an error; enter and
    leave in one thread. A call with more queries than `max_queries` runs in batches.

    A gallery that does not fit in the GPU's free memory (see cuda/memory.py) stays on the host, and each call copies
    the allowed rows to the device part by part, bound by the bus; `__enter__` logs that with both sizes. An int8 scan
    needs all of them there and is refused then.

    Args:
        gallery: float16 or float32 (N, D), rows of unit length; stored as float16 on the device.
        max_queries: queries of one launch, 1..1024.
        max_k: the largest k, 1..1024.
        scan: "fp16", or "int8": half the bytes to read, half as much again to store, the same answers.

    Attributes:
        widened: scans repeated with more candidates, since `__enter__`; 0 without an int8 scan.
        rescanned: queries that were scanned by float16 because int8 could not prove them, since `__enter__`.

    Raises:
        GalleryError: another dtype or shape.
        EngineError: a limit out of range.
    """

    def __init__(
        self,
        gallery: NDArray[np.float16] | NDArray[np.float32],
        max_queries: int = 64,
        max_k: int = DEFAULT_MAX_K,
        scan: ScanDtype = "fp16",
    ) -> None:
        check_gallery(gallery)
        for name, value, most in (("max_queries", max_queries, MAX_QUERIES), ("max_k", max_k, MAX_K)):
            if not 1 <= value <= most:
                raise EngineError(f"{name} is {value}; the GPU's kernels take 1..{most}.")
        if scan not in ("fp16", "int8"):
            raise EngineError(f"Scan {scan!r} is unknown: choose fp16 or int8.")
        self.name = f"cuda exact {scan}"
        self.widened = self.rescanned = 0
        self._gallery, self._scan_dtype, self._stream = gallery, scan, False
        self._max_queries, self._max_k = max_queries, max_k
        self._one = OneAtATime("The GPU's matcher")
        self._cuda: Cuda | None = None
        self._rows: DeviceScan | None = None

    def __enter__(self) -> CudaExactMatcher:
        if self._cuda is not None:
            raise EngineError("The GPU's matcher is entered twice: open a second one.")
        self.widened = self.rescanned = 0
        with ExitStack() as stack:
            cuda = stack.enter_context(open_cuda())
            image = load_fatbin(cuda.properties.capability, cuda.properties.driver)
            with cuda.active():
                limits = self._choose_limits(cuda)
                rows = DeviceScan(cuda, image, limits, self._scan_dtype)
                if not self._stream:
                    rows.put_rows(0, self._gallery)
            stack.pop_all()
        self._cuda, self._rows, self._limits = cuda, rows, limits
        return self

    def _choose_limits(self, cuda: Cuda) -> Limits:
        """All rows where they fit, else as many as are streamed at a time.

        Raises:
            GalleryError: an int8 scan of a gallery that does not fit.
        """
        n_rows, dim = self._gallery.shape
        room = room_on(cuda, n_rows, dim, self._scan_dtype)
        self._stream = not room.fits
        self.name = f"cuda exact {self._scan_dtype}" + (" streamed" if self._stream else "")
        if self._stream and self._scan_dtype == "int8":
            raise GalleryError(
                f"{room}: an int8 scan needs all of it there. Scan the rows, which are streamed where they do not fit, "
                "free the GPU's memory, or split the map."
            )
        if self._stream:
            _log.warning("%s: each search copies its rows there part by part.", room)
            n_rows = min(n_rows, max(1, min(STREAM_BYTES, room.free_bytes // 2) // gallery_bytes(1, dim, "fp16")))
        return Limits(n_rows, dim, self._max_queries, MAX_K if self._scan_dtype == "int8" else self._max_k)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cuda, self._cuda, self._rows = self._cuda, None, None
        if cuda is not None:
            cuda.__exit__(kind, error, trace)

    def match(
        self, queries: NDArray[np.float32], k: int, row_ranges: Iterable[tuple[int, int]] | None = None
    ) -> Matches:
        """Find the k most similar gallery rows for each query; see `Matcher.match`.

        Raises:
            GalleryError: as the Protocol states, k is larger than `max_k`; or, streamed, a row is not finite.
            EngineError: outside a with statement, while another thread's call runs, or the GPU failed.
        """
        cuda, device, ranges = self._checked(queries, k, row_ranges)
        step = self._max_queries
        with self._one, cuda.active():
            if 0 < len(queries) <= step:
                return self._match_batch(device, np.ascontiguousarray(queries), k, ranges)
            rows = np.empty((len(queries), k), np.int32)
            similarity = np.empty((len(queries), k), np.float32)
            for first in range(0, len(queries), step):
                part = slice(first, first + step)
                found = self._match_batch(device, np.ascontiguousarray(queries[part]), k, ranges)
                rows[part], similarity[part] = found.rows, found.similarity
        return Matches(rows, similarity)

    def gpu_ms(self, queries: NDArray[np.float32], k: int) -> float:
        """Milliseconds that the GPU works for one `match` over all rows, by events around its copies and launches.

        They are queued behind other work, so that no time of the host lies between the events: what `match` takes
        beyond this is the host's. Of an int8 scan only what a call takes that widens nothing.

        Raises:
            GalleryError: as in `match`.
            EngineError: as in `match`; the gallery is streamed; no queries, or more than one launch takes.
        """
        cuda, device, ranges = self._checked(queries, k, None)
        if self._stream or not 0 < len(queries) <= self._max_queries:
            raise EngineError(
                f"{len(queries)} queries over a gallery {'that is streamed' if self._stream else 'on the GPU'}: what "
                f"is timed is one launch over a gallery on the GPU, of 1..{self._max_queries} queries."
            )

        n_candidates = first_candidates(k, len(self._gallery), (_FEWEST_CANDIDATES, MAX_K))

        def start() -> None:
            if self._scan_dtype == "int8":
                device.start_codes(queries, k, n_candidates, ranges)
            else:
                device.start(queries, k, ranges)

        with self._one, cuda.active():
            brake = cuda.allocate(_BRAKE_BYTES, "timing")
            for _ in range(_BRAKES):
                cuda.clear(brake)
            for _ in range(_SCANS_AHEAD):
                start()
            begin = cuda.record()
            start()
            took_ms = cuda.elapsed_ms(begin, cuda.record())
            cuda.free(brake)
        return took_ms

    def _checked(
        self, queries: NDArray[np.float32], k: int, row_ranges: Iterable[tuple[int, int]] | None
    ) -> tuple[Cuda, DeviceScan, Ranges]:
        if self._cuda is None or self._rows is None:
            raise EngineError("The GPU's matcher is not open: use it inside a with statement.")
        check_queries(queries, self._gallery.shape[1])
        ranges = check_ranges(row_ranges, len(self._gallery), k)
        if k > self._max_k:
            raise GalleryError(f"k is {k}, but this matcher was opened for at most {self._max_k}: raise max_k.")
        return self._cuda, self._rows, ranges

    def _match_batch(self, device: DeviceScan, queries: NDArray[np.float32], k: int, ranges: Ranges) -> Matches:
        """One batch over all ranges: in one go, or streamed part by part with a merge on the host."""
        if not self._stream:
            return self._match_resident(device, queries, k, ranges)
        best: Matches | None = None
        for part in cut_ranges(ranges, self._limits.n_rows):
            n_rows = sum(stop - start for start, stop in part)
            found = self._match_streamed(device, queries, min(k, n_rows), part)
            best = found if best is None else merge(best, found, k)
        if best is None:
            raise GalleryError("No gallery row may be matched.")  # check_ranges lets none of these through
        return best

    def _match_resident(self, device: DeviceScan, queries: NDArray[np.float32], k: int, ranges: Ranges) -> Matches:
        if self._scan_dtype == "int8":
            return self._match_proven(device, queries, k, ranges)
        found = device.scan(queries, k, ranges)
        return Matches(found.rows, found.similarity)

    def _match_streamed(self, device: DeviceScan, queries: NDArray[np.float32], k: int, part: Ranges) -> Matches:
        """Copy the part's rows to the device one behind the other, and turn places there into gallery rows."""
        starts = np.array([start for start, _ in part])
        before = np.cumsum([0, *(stop - start for start, stop in part)])
        for (start, stop), first in zip(part, before[:-1], strict=True):
            device.put_rows(int(first), self._gallery[start:stop])
        found = device.scan(queries, k, ((0, int(before[-1])),))
        piece = np.searchsorted(before, found.rows, side="right") - 1
        return Matches((starts[piece] + found.rows - before[piece]).astype(np.int32), found.similarity)

    def _match_proven(self, device: DeviceScan, queries: NDArray[np.float32], k: int, ranges: Ranges) -> Matches:
        """Scan int8, rank by float16, prove; widen for the queries that are not proven."""

        def scan_codes(some: NDArray[np.float32], n_candidates: int) -> Ranked:
            found = device.scan_codes(some, k, n_candidates, ranges)
            return Ranked(found.rows, found.similarity, found.proven != 0)

        def scan_rows(some: NDArray[np.float32]) -> Matches:
            found = device.scan(some, k, ranges)
            return Matches(found.rows, found.similarity)

        all_rows = sum(stop - start for start, stop in ranges)
        found = match_proven(queries, k, all_rows, (_FEWEST_CANDIDATES, MAX_K), scan_codes, scan_rows)
        self.widened += found.widened
        self.rescanned += found.rescanned
        return found.matches


def cut_ranges(ranges: Ranges, most_rows: int) -> Iterator[Ranges]:
    """Parts of at most `most_rows` rows, in order; a range that does not fit is cut."""
    part: list[tuple[int, int]] = []
    room = most_rows
    for start, stop in ranges:
        while start < stop:
            end = min(stop, start + room)
            part.append((start, end))
            room -= end - start
            start = end
            if room == 0:
                yield tuple(part)
                part, room = [], most_rows
    if part:
        yield tuple(part)


def merge(first: Matches, second: Matches, k: int) -> Matches:
    """The best k of two answers, best first, equal similarities by the lower row."""
    rows = np.concatenate([first.rows, second.rows], axis=1)
    similarity = np.concatenate([first.similarity, second.similarity], axis=1)
    order = np.lexsort((rows, -similarity), axis=1)[:, :k]
    return Matches(np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarity, order, axis=1))
