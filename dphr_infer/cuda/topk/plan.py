"""Plans the launches of `topk.cu`: which kernel, how many blocks, how much memory, which arguments in which order.

Pure NumPy, so that the proof on the CPU and the launcher on the GPU run the same plan. A matcher does, a query batch:

    fp16:  plan_topk(..., "fp16") -> one launch of a scan kernel
    int8:  plan_topk(..., "int8", k=C) -> one launch that keeps the C rows of highest upper bound, then plan_rerank ->
           one launch that ranks them by fp16 rows and says for each query whether the answer is proven

Nothing depends on the content of a batch, only on its sizes: the plan of a size may be kept, its launch captured.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dphr_infer.cuda.topk.operands import VECTOR_BYTES, ScanDtype, vectors_a_row
from dphr_infer.cuda.topk.regimes import dot_up_to
from dphr_infer.errors import GalleryError

QueryLayout = Literal["float32", "int8 pair"]

THREADS = 256
WARPS = THREADS // 32
MAX_K = 1024
MAX_QUERIES = 1024
# Queries that a kernel takes at once, one compiled kernel each; topk_regimes.json says up to how many go to dot. There
# is no int8 dot for 8: it would take longer than reading the rows, as __dp4a runs at half the rate of a multiply-add.
DOT_TILES: dict[ScanDtype, tuple[int, ...]] = {"fp16": (1, 2, 4, 8), "int8": (1, 2, 4)}
MMA_TILES = (8, 16, 32, 64)
# Blocks an SM that the registers allow: `__launch_bounds__` in topk.cu.
BLOCKS_AN_SM = 2
BLOCKS_AN_SM_FROM_MMA_32 = 1
# Rows a block takes in one step: more blocks than steps would have nothing to do.
DOT_STEP_ROWS = 8 * WARPS
MMA_STEP_ROWS = 16 * WARPS  # or twice that
# mma kernels take a row 64 bytes at a time.
CHUNK_VECTORS = 4
KEY_BYTES = 8
# Floors, counts and flags of a block in shared memory; topk.cu lays them out behind queries and keys.
_TAIL_BYTES_A_QUERY = 16
_TAIL_BYTES = 16
# What the driver keeps of an SM's shared memory for itself, a block.
_RESERVED_BYTES = 1024

SCAN_ARGUMENTS = (
    "gallery",
    "row_bounds",
    "queries",
    "query_bounds",
    "ranges",
    "range_prefix",
    "n_ranges",
    "n_vectors",
    "n_queries",
    "k",
    "floors",
    "survivors",
    "survivor_counts",
    "blocks_done",
    "rows",
    "similarity",
)
RERANK_ARGUMENTS = (
    "gallery",
    "queries",
    "candidates",
    "candidate_bounds",
    "n_candidates",
    "n_vectors",
    "n_queries",
    "k",
    "floors",
    "survivors",
    "survivor_counts",
    "blocks_done",
    "rows",
    "similarity",
    "proven",
)

_SIZES = ("n_ranges", "n_vectors", "n_queries", "n_candidates", "k")


@dataclass(frozen=True, slots=True)
class TopkPlan:
    """One launch.

    Attributes:
        kernel: name of the function in topk.cu.
        grid: (query tiles, row blocks, 1). Tiles come first, so that blocks that read the same rows start together and
            the second-level cache serves all but one of them.
        block: threads, (256, 1, 1).
        shared_bytes: dynamic shared memory; above 48 KiB the function attribute has to be raised first.
        query_tile: queries a block answers.
        query_layout: what `queries` holds, see operands.py.
        survivor_bytes: of the workspace `survivors` that this launch may use.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    query_tile: int
    query_layout: QueryLayout
    survivor_bytes: int


@dataclass(frozen=True, slots=True)
class Workspace:
    """Sizes in bytes of the buffers that launches share, for stated maxima.

    All but `survivors` have to be zero before the first launch; each launch leaves them zero for the next one. Launches
    that share them must follow each other in one stream.
    """

    floors: int
    survivors: int
    survivor_counts: int
    blocks_done: int


def plan_topk(
    n_rows_allowed: int,
    dim: int,
    n_queries: int,
    k: int,
    dtype: ScanDtype,
    sm_count: int,
    shared_limit: int,
    most_by_dot: int | None = None,
) -> TopkPlan:
    """The launch that scans the allowed rows once for all queries.

    Args:
        n_rows_allowed: rows in all ranges together.
        dim: dimensions of an embedding, before padding.
        n_queries: 1..1024.
        k: rows to keep a query, 1..min(1024, n_rows_allowed); in an int8 scan the number of candidates.
        dtype: of the rows that are scanned.
        sm_count: multiprocessors of the device.
        shared_limit: shared memory in bytes that a block may ask for (opt-in): 166,912 on sm_87, 232,448 on sm_90.
        most_by_dot: the largest batch that goes to dot products; None asks the table, see regimes.py.

    Raises:
        GalleryError: a size out of bounds, or rows so long that not one query fits in shared memory.
    """
    _check_sizes(n_rows_allowed, n_queries, k)
    n_vectors = vectors_a_row(dim, dtype)
    most = dot_up_to(dtype, dim, sm_count) if most_by_dot is None else most_by_dot
    family, tile = _choose(n_vectors, n_queries, k, dtype, shared_limit, most)
    shared = _shared_bytes(family, tile, n_vectors, k, dtype)
    step = DOT_STEP_ROWS if family == "dot" else MMA_STEP_ROWS
    suffix = "f16" if dtype == "fp16" else "i8"
    layout: QueryLayout = "int8 pair" if dtype == "int8" else "float32"
    tiles = -(-n_queries // tile)
    by_registers = BLOCKS_AN_SM_FROM_MMA_32 if family == "mma" and tile >= 32 else BLOCKS_AN_SM
    resident = sm_count * _blocks_an_sm(shared, shared_limit, by_registers)
    blocks = _row_blocks(n_rows_allowed, step, resident, tiles)
    return TopkPlan(
        kernel=f"topk_{family}_{suffix}_q{tile}",
        grid=(tiles, blocks, 1),
        block=(THREADS, 1, 1),
        shared_bytes=shared,
        query_tile=tile,
        query_layout=layout,
        survivor_bytes=n_queries * blocks * k * KEY_BYTES,
    )


def plan_rerank(n_candidates: int, dim: int, n_queries: int, k: int, sm_count: int, shared_limit: int) -> TopkPlan:
    """The launch that ranks each query's candidates by their fp16 rows; sizes and errors as in `plan_topk`."""
    _check_sizes(n_candidates, n_queries, k)
    shared = _shared_bytes("dot", 1, vectors_a_row(dim, "fp16"), k, "fp16")
    if shared > shared_limit:
        raise _too_long(dim, k, shared, shared_limit)
    resident = sm_count * _blocks_an_sm(shared, shared_limit, BLOCKS_AN_SM)
    blocks = _row_blocks(n_candidates, DOT_STEP_ROWS, resident, n_queries)
    return TopkPlan(
        kernel="topk_rerank_f16",
        grid=(n_queries, blocks, 1),
        block=(THREADS, 1, 1),
        shared_bytes=shared,
        query_tile=1,
        query_layout="float32",
        survivor_bytes=n_queries * blocks * k * KEY_BYTES,
    )


def workspace(max_queries: int, max_k: int, sm_count: int, shared_limit: int) -> Workspace:
    """What every launch up to these maxima needs, whatever its sizes.

    A block keeps at least two keys in shared memory for each that it hands over: `shared_limit` bounds its survivors.
    """
    survivors = BLOCKS_AN_SM * sm_count * (shared_limit // 2) + max_queries * max_k * KEY_BYTES
    return Workspace(
        floors=max_queries * KEY_BYTES,
        survivors=survivors,
        survivor_counts=max_queries * 4,
        blocks_done=max_queries * 4,
    )


def arguments(order: Sequence[str], values: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values in the order of SCAN_ARGUMENTS or RERANK_ARGUMENTS; sizes as int32, pointers as they are.

    A scan of fp16 rows reads neither `row_bounds` nor `query_bounds`: give null pointers.

    Raises:
        KeyError: a value is missing: a bug of the launcher.
    """
    return tuple(np.int32(values[name]) if name in _SIZES else values[name] for name in order)


def pack_arguments(values: Sequence[Any]) -> bytes:
    """Pointers (uint64) and sizes (int32) as a C struct of a kernel's parameters lies in memory."""
    kinds = {np.uint64: "Q", np.int32: "i"}
    return struct.pack("@" + "".join(kinds[type(value)] for value in values), *(int(value) for value in values))


def _check_sizes(n_rows: int, n_queries: int, k: int) -> None:
    if not 1 <= n_queries <= MAX_QUERIES:
        raise GalleryError(f"{n_queries} queries in one batch; the GPU takes 1..{MAX_QUERIES}. Split the batch.")
    if not 1 <= k <= min(MAX_K, n_rows):
        raise GalleryError(
            f"k is {k}, but the GPU keeps 1..{min(MAX_K, n_rows)} of {n_rows} rows: choose a k of these."
        )


def _too_long(dim: int, k: int, needed: int, limit: int) -> GalleryError:
    return GalleryError(
        f"Embeddings of {dim} dimensions with k = {k} need {needed} bytes of shared memory a query, but a block of "
        f"this GPU has {limit}: choose a smaller k, or match on the CPU."
    )


def _choose(n_vectors: int, n_queries: int, k: int, dtype: ScanDtype, limit: int, by_dot: int) -> tuple[str, int]:
    """Kernel family and query tile: the smallest that takes all queries at once, else the largest that fits."""
    dot_tiles = DOT_TILES[dtype]
    family, tiles = ("dot", dot_tiles) if n_queries <= min(by_dot, dot_tiles[-1]) else ("mma", MMA_TILES)
    fitting = [tile for tile in tiles if _shared_bytes(family, tile, n_vectors, k, dtype) <= limit]
    if not fitting and family == "mma":
        family = "dot"
        fitting = [tile for tile in dot_tiles if _shared_bytes(family, tile, n_vectors, k, dtype) <= limit]
    if not fitting:
        needed = _shared_bytes(family, 1, n_vectors, k, dtype)
        raise _too_long(n_vectors * VECTOR_BYTES // (2 if dtype == "fp16" else 1), k, needed, limit)
    return family, next((tile for tile in fitting if tile >= n_queries), fitting[-1])


def key_capacity(k: int) -> int:
    """Keys a block buffers a query: twice k rounded up to a power of two, at least 64 (a warp adds 32 at once)."""
    return 2 * max(32, 1 << (k - 1).bit_length())


def _shared_bytes(family: str, tile: int, n_vectors: int, k: int, dtype: ScanDtype) -> int:
    # Two vectors a gallery vector: float32 queries beside fp16 rows, or two halves, or two int8 levels.
    whole = 1 if family == "dot" else CHUNK_VECTORS
    vectors = 2 * (-(-n_vectors // whole) * whole)
    keys = tile * key_capacity(k) * KEY_BYTES
    return tile * vectors * VECTOR_BYTES + keys + tile * _TAIL_BYTES_A_QUERY + _TAIL_BYTES


def _blocks_an_sm(shared: int, limit: int, by_registers: int) -> int:
    """An SM has 1 KiB more than a block may ask for, and keeps as much of it for itself a block."""
    return max(1, min(by_registers, (limit + _RESERVED_BYTES) // (shared + _RESERVED_BYTES)))


def _row_blocks(n_rows: int, step: int, resident: int, tiles: int) -> int:
    return max(1, min(-(-n_rows // step), resident // tiles))
