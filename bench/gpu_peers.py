"""Other exact searches on a GPU, by float16 rows that lie there: torch, faiss, cuVS.

They are measured where they happen to be installed and never needed: they are imported by name, because no package of
this project but dphr_train and export may depend on torch. Opening one raises ImportError where it is not installed, or
has no GPU part.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

PEERS = ("torch", "faiss", "cuvs")
_ROWS_AT_ONCE = 1 << 16

Search = Callable[[NDArray[np.float32], int], object]


def _open_torch(gallery: NDArray[np.float16]) -> Search:
    """matmul and topk, with the whole matrix of similarities in memory."""
    torch: Any = importlib.import_module(PEERS[0])
    if not torch.cuda.is_available():
        raise ImportError("this torch has no GPU part")
    rows = torch.from_numpy(gallery).cuda().T

    def search(queries: NDArray[np.float32], k: int) -> object:
        found = torch.topk(torch.from_numpy(queries).cuda().half() @ rows, k)
        return found.values.cpu(), found.indices.cpu()

    return search


def _open_faiss(gallery: NDArray[np.float16]) -> Search:
    faiss: Any = importlib.import_module(PEERS[1])
    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError("this faiss has no GPU part")
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexFlatIP(resources, gallery.shape[1], config)
    for start in range(0, len(gallery), _ROWS_AT_ONCE):
        index.add(gallery[start : start + _ROWS_AT_ONCE].astype(np.float32))
    return lambda queries, k: (index.search(queries, k), resources)


def _open_cuvs(gallery: NDArray[np.float16]) -> Search:
    brute_force: Any = importlib.import_module(f"{PEERS[2]}.neighbors.brute_force")
    cupy: Any = importlib.import_module("cupy")
    index = brute_force.build(cupy.asarray(gallery), metric="inner_product")

    def search(queries: NDArray[np.float32], k: int) -> object:
        similarity, rows = brute_force.search(index, cupy.asarray(queries.astype(np.float16)), k)
        return cupy.asarray(similarity).get(), cupy.asarray(rows).get()

    return search


OPEN_PEER: dict[str, Callable[[NDArray[np.float16]], Search]] = dict(
    zip(PEERS, (_open_torch, _open_faiss, _open_cuvs), strict=True)
)
