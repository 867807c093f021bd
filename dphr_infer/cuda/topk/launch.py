"""Gallery rows on a GPU and the launches of `topk.cu` over them. Launcher of topk.cu.

Everything is taken once for stated maxima. A call copies one block of inputs from pinned memory, launches, copies one
block of outputs back and waits once; it allocates nothing. Launches of the same sizes share one packed argument block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.driver import Buffer, Cuda
from dphr_infer.cuda.topk.operands import (
    Found,
    ScanDtype,
    pad_rows,
    pair_levels,
    prepare_ranges,
    range_table_bytes,
    similarity_offset,
    vectors_a_row,
    view_outputs,
)
from dphr_infer.cuda.topk.plan import (
    RERANK_ARGUMENTS,
    SCAN_ARGUMENTS,
    TopkPlan,
    arguments,
    pack_arguments,
    plan_rerank,
    plan_topk,
    workspace,
)
from dphr_infer.errors import EngineError, GalleryError
from dphr_infer.matchers.quantise import QuantisedRows, bound_slack, quantise_rows, split_queries

FIRST_RANGES = 4096  # room for ranges at first; a prior of more makes more room, once
_STAGING_BYTES = 16 << 20
_NULL = np.uint64(0)
# Launch sizes whose arguments are kept; a changing position prior uses many.
_KEPT_LAUNCHES = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """Maxima that memory is taken for.

    Attributes:
        n_rows: gallery rows on the device at once.
        dim: dimensions of an embedding.
        n_queries: queries of one launch, at most 1024.
        k: rows that a launch keeps a query, at most 1024.
    """

    n_rows: int
    dim: int
    n_queries: int
    k: int


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """A launch of one size: its arguments packed, the block of outputs on the host, and views of what lies in it."""

    plan: TopkPlan
    function: Any
    arguments: bytes
    outputs: NDArray[np.uint8]
    found: Found


class DeviceScan:
    """Rows, buffers and kernels on an open GPU. Make and use it inside `cuda.active()`; closing the GPU frees it.

    Args:
        cuda: the open GPU.
        image: the kernels, from `load_fatbin`.
        limits: what memory is taken for.
        scan: "fp16", or "int8" to keep int8 rows beside the fp16 ones.
        most_by_dot: as in `plan_topk`; given only by who measures it.

    Attributes:
        range_capacity: of the tables of ranges; captured launches hold only while it stays.

    Raises:
        GalleryError: the rows do not fit in the GPU's memory.
        EngineError: the buffers do not, or the driver refuses the kernels.
    """

    def __init__(
        self, cuda: Cuda, image: bytes, limits: Limits, scan: ScanDtype, most_by_dot: int | None = None
    ) -> None:
        self._cuda, self._limits, self._has_codes = cuda, limits, scan == "int8"
        self._most_by_dot = most_by_dot
        self._device = (cuda.properties.sm_count, cuda.properties.shared_bytes)
        self._module = cuda.load(image)
        self._launches: dict[tuple[Any, ...], Launch] = {}
        self._ranges: tuple[tuple[int, int], ...] = ()  # those on the device
        self._longest = self._largest_error = 0.0
        self._row_bytes = vectors_a_row(limits.dim, "fp16") * 16
        self._code_bytes = vectors_a_row(limits.dim, "int8") * 16
        self._buffers: dict[str, Buffer] = {}
        self.range_capacity = FIRST_RANGES
        self._take_rows()
        self._take_buffers()

    def _take_rows(self) -> None:
        n_rows, sizes = self._limits.n_rows, {"gallery": self._row_bytes}
        if self._has_codes:
            sizes |= {"codes": self._code_bytes, "row_bounds": 8}
        needed, free = n_rows * sum(sizes.values()), self._cuda.free_bytes()
        try:
            for name, bytes_a_row in sizes.items():
                self._buffers[name] = self._cuda.allocate(n_rows * bytes_a_row, f"the {name} of {n_rows} rows")
        except EngineError as error:
            raise GalleryError(
                f"The gallery's {n_rows} rows take {needed:,} bytes on the GPU, but {free:,} of "
                f"{self._cuda.properties.memory_bytes:,} are free on {self._cuda.properties.name}: free the GPU's "
                "memory, or split the map."
            ) from error

    def _take_buffers(self) -> None:
        cuda, n_queries, n_kept = self._cuda, self._limits.n_queries, self._limits.n_queries * self._limits.k
        host = {
            "queries": n_queries * self._row_bytes * 2,  # float32, or float16 twice
            "levels": n_queries * self._code_bytes * 2,
            "query_bounds": n_queries * 16,
            **range_table_bytes(FIRST_RANGES),
            "outputs": 2 * similarity_offset(n_kept) + 4 * n_queries,
        }
        self._host = {name: cuda.pinned(n_bytes) for name, n_bytes in host.items()}
        self._staging = cuda.pinned(max(_STAGING_BYTES, self._row_bytes))
        sizes = workspace(n_queries, self._limits.k, *self._device)
        zeroed = {name: getattr(sizes, name) for name in ("floors", "survivors", "survivor_counts", "blocks_done")}
        kept = {"candidates": 4 * n_kept, "candidate_bounds": 4 * n_kept} if self._has_codes else {}
        for name, n_bytes in {**host, **zeroed, **kept}.items():
            self._buffers[name] = cuda.allocate(n_bytes, f"the matcher's {name}")
        for name in zeroed:
            cuda.clear(self._buffers[name])
        cuda.synchronize()

    def put_rows(self, first: int, rows: NDArray[np.float16] | NDArray[np.float32]) -> None:
        """Copy rows to the device from row `first` on, as float16 and, for an int8 scan, as int8 beside it.

        Raises:
            GalleryError: a row is not finite, or longer than an int8 scan's bounds allow for.
        """
        step = max(1, len(self._staging) // self._row_bytes)
        for start in range(0, len(rows), step):
            part = rows[start : start + step].astype(np.float16)
            if not np.isfinite(part).all():
                raise GalleryError(
                    f"Gallery rows {first + start}..{first + start + len(part) - 1} hold values that are not finite: "
                    "build it again."
                )
            self._copy("gallery", (first + start) * self._row_bytes, pad_rows(part))
            if self._has_codes:
                self._put_codes(first + start, quantise_rows(part))

    def _put_codes(self, first: int, quantised: QuantisedRows) -> None:
        self._copy("codes", first * self._code_bytes, pad_rows(quantised.codes))
        self._copy("row_bounds", first * 8, np.stack([quantised.scale, quantised.error], axis=1))
        # The slack of a query depends on these two alone.
        self._longest = max(self._longest, quantised.longest)
        self._largest_error = max(self._largest_error, float(quantised.error.max()))

    def _copy(self, name: str, offset: int, values: NDArray[Any]) -> None:
        staged = self._staging[: values.nbytes]
        staged[:] = values.reshape(-1).view(np.uint8)
        self._cuda.upload(self._buffers[name].address + offset, staged)
        self._cuda.synchronize()

    def scan(self, queries: NDArray[np.float32], k: int, ranges: tuple[tuple[int, int], ...]) -> Found:
        """The k most similar rows by float16, exactly.

        Args:
            queries: float32 (Q, D), 1 <= Q <= limits.n_queries.
            k: 1..limits.k, at most the rows allowed.
            ranges: as `check_ranges` gives them; more than `range_capacity` wait for the GPU and take memory, once.
        """
        return self.collect(self.start(queries, k, ranges))

    def start(self, queries: NDArray[np.float32], k: int, ranges: tuple[tuple[int, int], ...]) -> Launch:
        """`scan` without the wait, for `collect`."""
        launch = self.ready(len(queries), k, ranges)
        self._put_queries(queries)
        self.enqueue(launch)
        return launch

    def has_ranges(self, ranges: tuple[tuple[int, int], ...]) -> bool:
        """Whether these lie on the device already, so that `ready` copies nothing."""
        return ranges == self._ranges

    @property
    def queries(self) -> Buffer:
        """Where queries lie on the device: float32 (n_queries, D padded with zeros to a multiple of 8)."""
        return self._buffers["queries"]

    def ready(self, n_queries: int, k: int, ranges: tuple[tuple[int, int], ...]) -> Launch:
        """The float16 scan of queries that lie on the device already; its ranges go there now. Sizes as in `scan`."""
        launch = self._scan_launch("fp16", n_queries, k, ranges)
        self._put_ranges(ranges)
        return launch

    def enqueue(self, launch: Launch, outputs: NDArray[np.uint8] | None = None) -> None:
        """Put the scan and the copy of its answer into the GPU's stream; waits for nothing, so it can be captured.

        Args:
            outputs: pinned memory for the answer, at least `output_bytes` long; None takes this object's own.
        """
        self._start(launch)
        host = launch.outputs if outputs is None else outputs[: len(launch.outputs)]
        self._cuda.download(host, self._buffers["outputs"].address)

    @property
    def output_bytes(self) -> int:
        """The most that an answer takes."""
        return len(self._host["outputs"])

    def collect(self, launch: Launch) -> Found:
        """Wait for what was enqueued last; the answer, which later launches leave as it is."""
        self._cuda.synchronize()
        found = launch.found
        return Found(found.rows.copy(), found.similarity.copy(), found.proven.copy())

    def scan_codes(
        self, queries: NDArray[np.float32], k: int, n_candidates: int, ranges: tuple[tuple[int, int], ...]
    ) -> Found:
        """The k most similar rows among the n candidates of highest upper bound, and for which queries that is proven.

        Args and sizes as in `scan`; k <= n_candidates <= limits.k, at most the rows allowed.
        """
        return self.collect(self.start_codes(queries, k, n_candidates, ranges))

    def start_codes(
        self, queries: NDArray[np.float32], k: int, n_candidates: int, ranges: tuple[tuple[int, int], ...]
    ) -> Launch:
        """`scan_codes` without the wait, for `collect`."""
        first = self._scan_launch("int8", len(queries), n_candidates, ranges)
        second = self._rerank_launch(len(queries), k, n_candidates)
        split = split_queries(queries)
        self._put_queries(queries)
        self._put("levels", pair_levels(split.first, split.second))
        slack = bound_slack(self._longest, self._largest_error, split)  # of upper bounds over all rows on the device
        scales = (split.first_scale, split.second_scale, split.length, slack)
        self._put("query_bounds", np.stack(scales, axis=1))  # float32 (Q, 4)
        self._put_ranges(ranges)
        self._start(first)
        self.enqueue(second)
        return second

    def _put_queries(self, queries: NDArray[np.float32]) -> None:
        """Layout "float32": float32 (Q, D padded as fp16 rows are), zeros behind each query, written in place."""
        width = self._row_bytes // 2
        staged = self._host["queries"][: len(queries) * width * 4]
        view = staged.view(np.float32).reshape(len(queries), width)
        view[:, : queries.shape[1]] = queries
        view[:, queries.shape[1] :] = 0
        self._cuda.upload(self._buffers["queries"].address, staged)

    def _put(self, name: str, values: NDArray[Any]) -> None:
        staged = self._host[name][: values.nbytes]
        staged[:] = values.reshape(-1).view(np.uint8)
        self._cuda.upload(self._buffers[name].address, staged)

    def _put_ranges(self, ranges: tuple[tuple[int, int], ...]) -> None:
        if ranges != self._ranges:
            bounds, prefix = prepare_ranges(ranges)
            self._put("ranges", bounds)
            self._put("range_prefix", prefix)
            self._ranges = ranges

    def _make_room(self, n_ranges: int) -> None:
        """Take larger tables of ranges where these do not fit, at least twice as large; the old ones go."""
        if n_ranges <= self.range_capacity:
            return
        self._cuda.synchronize()  # a launch may be reading the old ones
        capacity = max(n_ranges, 2 * self.range_capacity)
        for name, n_bytes in range_table_bytes(capacity).items():
            larger = self._cuda.allocate(n_bytes, f"the matcher's {name}")
            self._cuda.free(self._buffers[name])
            self._buffers[name], self._host[name] = larger, self._cuda.pinned(n_bytes)
        self.range_capacity, self._ranges = capacity, ()
        self._launches.clear()  # they point to the old ones

    def _start(self, launch: Launch) -> None:
        plan = launch.plan
        self._cuda.launch(launch.function, plan.grid, plan.block, launch.arguments, plan.shared_bytes)

    def _scan_launch(self, dtype: ScanDtype, n_queries: int, k: int, ranges: tuple[tuple[int, int], ...]) -> Launch:
        self._make_room(len(ranges))
        n_allowed = sum(stop - start for start, stop in ranges)
        key = (dtype, n_queries, k, len(ranges), n_allowed)
        if (kept := self._launches.get(key)) is not None:
            return kept
        plan = plan_topk(n_allowed, self._limits.dim, n_queries, k, dtype, *self._device, self._most_by_dot)
        values = {"n_ranges": len(ranges), "n_vectors": vectors_a_row(self._limits.dim, dtype)}
        replaced = {"row_bounds": _NULL, "query_bounds": _NULL}
        if dtype == "int8":
            replaced = {name: self._address(name) for name in ("row_bounds", "query_bounds")} | {
                "gallery": self._address("codes"),
                "queries": self._address("levels"),
                "rows": self._address("candidates"),
                "similarity": self._address("candidate_bounds"),
            }
        return self._keep(key, plan, SCAN_ARGUMENTS, n_queries, k, values | replaced)

    def _rerank_launch(self, n_queries: int, k: int, n_candidates: int) -> Launch:
        key = ("rerank", n_queries, k, n_candidates)
        if (kept := self._launches.get(key)) is not None:
            return kept
        plan = plan_rerank(n_candidates, self._limits.dim, n_queries, k, *self._device)
        values = {"n_candidates": n_candidates, "n_vectors": vectors_a_row(self._limits.dim, "fp16")}
        return self._keep(key, plan, RERANK_ARGUMENTS, n_queries, k, values)

    def _keep(
        self, key: tuple[Any, ...], plan: TopkPlan, order: Sequence[str], n_queries: int, k: int, own: dict[str, Any]
    ) -> Launch:
        """Pack the arguments in the planner's order, as C lays them out, and keep them."""
        similarity_at = similarity_offset(n_queries * k)
        proven_at = 2 * similarity_at
        values = {name: self._address(name) for name in self._buffers} | {
            "rows": self._address("outputs"),
            "similarity": self._address("outputs", similarity_at),
            "proven": self._address("outputs", proven_at),
            "n_queries": n_queries,
            "k": k,
        }
        packed = pack_arguments(arguments(order, values | own))
        outputs = self._host["outputs"][: proven_at + 4 * n_queries]
        launch = Launch(
            plan=plan,
            function=self._cuda.function(self._module, plan.kernel, plan.shared_bytes),
            arguments=packed,
            outputs=outputs,
            found=view_outputs(outputs, n_queries, k),
        )
        if len(self._launches) == _KEPT_LAUNCHES:
            self._launches.clear()
        self._launches[key] = launch
        return launch

    def _address(self, name: str, offset: int = 0) -> Any:
        return np.uint64(self._buffers[name].address + offset)
