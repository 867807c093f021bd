"""Other exact searches on a GPU, by float16 rows that lie there: torch, faiss, cuVS.

They are measured where they happen to be installed and never needed: they are imported by name, because no package of
this project but dphr_train and export may depend on torch. Opening one raises MissingPackageError where it is not
installed, and ImportError where it has no GPU part. Queries begin and matches end in host memory, as ours do.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.cpu import Opener, Peer
from dphr_infer.errors import MissingPackageError
from dphr_infer.types import Matches

PEERS = ("torch", "faiss", "cuvs")
ROWS_DTYPE = np.float16
_EXTRAS = dict(zip(PEERS, ("train", "faiss-gpu", "cuvs"), strict=True))
_PURPOSE = "Comparing ours with it"
_ROWS_AT_ONCE = 1 << 16


def _import(package: str, module: str = "") -> Any:
    try:
        return importlib.import_module(module or package)
    except ImportError as error:
        raise MissingPackageError(package, _EXTRAS[package], _PURPOSE) from error


def _open_torch(gallery: NDArray[np.float16], threads: int) -> list[Peer]:
    """Matmul and topk, with the whole matrix of similarities in memory."""
    torch = _import(PEERS[0])
    if not torch.cuda.is_available():
        raise ImportError("this torch has no GPU part, or finds no GPU")
    rows = torch.from_numpy(gallery).cuda().T

    def search(queries: NDArray[np.float32], k: int) -> Matches:
        found = torch.topk(torch.from_numpy(queries).cuda().half() @ rows, k)
        return Matches(found.indices.cpu().numpy().astype(np.int32), found.values.float().cpu().numpy())

    return [Peer("torch matmul and topk, fp16 on the GPU", str(torch.__version__), search)]


def _open_faiss(gallery: NDArray[np.float16], threads: int) -> list[Peer]:
    faiss = _import(PEERS[1])
    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError("this faiss has no GPU part")
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexFlatIP(resources, gallery.shape[1], config)
    for start in range(0, len(gallery), _ROWS_AT_ONCE):
        index.add(gallery[start : start + _ROWS_AT_ONCE].astype(np.float32))

    def search(queries: NDArray[np.float32], k: int, _keep: Any = resources) -> Matches:
        similarity, rows = index.search(queries, k)
        return Matches(rows.astype(np.int32), similarity)

    return [Peer("faiss GpuIndexFlatIP, fp16", str(faiss.__version__), search)]


def _open_cuvs(gallery: NDArray[np.float16], threads: int) -> list[Peer]:
    brute_force, cupy = _import(PEERS[2], f"{PEERS[2]}.neighbors.brute_force"), _import(PEERS[2], "cupy")
    on_device = cupy.asarray(gallery)
    index = brute_force.build(on_device, metric="inner_product")

    # The index only points at the rows.
    def search(queries: NDArray[np.float32], k: int, _keep: Any = on_device) -> Matches:
        similarity, rows = brute_force.search(index, cupy.asarray(queries.astype(np.float16)), k)
        return Matches(cupy.asarray(rows).get().astype(np.int32), cupy.asarray(similarity).get().astype(np.float32))

    return [Peer("cuVS brute force, fp16", str(_import(PEERS[2]).__version__), search)]


OPENERS: dict[str, Opener] = dict(zip(PEERS, (_open_torch, _open_faiss, _open_cuvs), strict=True))
