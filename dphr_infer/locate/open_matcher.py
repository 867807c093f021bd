"""The one place where a device name becomes a matcher."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.topk.matcher import DEFAULT_MAX_K, CudaExactMatcher
from dphr_infer.errors import EngineError
from dphr_infer.matchers.base import Matcher, check_gallery
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.matchers.int8 import NumpyInt8Matcher
from dphr_infer.matchers.scan import choose_scan
from dphr_infer.measure.available import available_memory_bytes

DEVICES = ("cpu", "cuda")
Scan = Literal["auto", "rows", "int8"]
SCANS: tuple[Scan, ...] = ("auto", "rows", "int8")

_log = logging.getLogger(__name__)


def open_matcher(
    embeddings: NDArray[np.float16] | NDArray[np.float32],
    device: str = "cpu",
    scan: Scan = "auto",
    threads: int | None = None,
    max_k: int = DEFAULT_MAX_K,
) -> Matcher:
    """The exact matcher of a device, opened on gallery rows; enter it before use.

    Args:
        embeddings: float16 or float32 (N, D), rows of unit length, e.g. `Gallery.embeddings`.
        device: "cpu" is NumPy; "cuda" the first GPU, by float16 rows, for at most 64 queries a launch.
        scan: "rows" reads the rows; "int8" reads codes made from them, one more byte a value in memory, and proves the
            same answers. "auto" is what `choose_scan` says on a CPU, and logs why; on a GPU, "rows".
        threads: of a CPU's matcher, as of `NumpyExactMatcher`.
        max_k: the largest k of the GPU's matcher, 1..1024; a CPU's takes any.

    Raises:
        EngineError: the device or the scan is unknown, threads or max_k out of range. Entering the GPU's matcher raises
            what `CudaExactMatcher` says; it never falls back to the CPU.
        GalleryError: another dtype or shape.
    """
    if device not in DEVICES:
        raise EngineError(
            f"Device {device!r} is not available: this runtime matches on {', '.join(DEVICES)} and does not fall back "
            "silently. Choose one of these."
        )
    if scan not in SCANS:
        raise EngineError(f"Scan {scan!r} is unknown: choose one of {', '.join(SCANS)}.")
    check_gallery(embeddings)
    if device == "cuda":
        return CudaExactMatcher(embeddings, max_k=max_k, scan="int8" if scan == "int8" else "fp16")
    if scan == "auto":
        choice = choose_scan(len(embeddings), embeddings.shape[1], embeddings.dtype, available_memory_bytes())
        _log.info("%s", choice.why)
        scan = choice.scan
    if scan == "int8":
        return NumpyInt8Matcher(embeddings, threads=threads)
    return NumpyExactMatcher(embeddings, threads=threads)
