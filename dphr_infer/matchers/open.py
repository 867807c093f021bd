"""The one place where a device name becomes a matcher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import EngineError
from dphr_infer.matchers.base import Matcher
from dphr_infer.matchers.cuda_exact import CudaExactMatcher
from dphr_infer.matchers.numpy_exact import NumpyExactMatcher

DEVICES = ("cpu", "cuda")


def open_matcher(embeddings: NDArray[np.float16] | NDArray[np.float32], device: str = "cpu") -> Matcher:
    """The exact matcher of a device, opened on gallery rows; enter it before use.

    Args:
        embeddings: float16 or float32 (N, D), rows of unit length, e.g. `Gallery.embeddings`.
        device: "cpu" is NumPy; "cuda" the first GPU, by float16 rows, for at most 64 queries a launch and k up to 32.

    Raises:
        EngineError: the device is unknown. Entering the GPU's matcher raises what `CudaExactMatcher` says; it never
            falls back to the CPU.
        GalleryError: another dtype or shape.
    """
    if device not in DEVICES:
        raise EngineError(
            f"Device {device!r} is not available: this runtime matches on {', '.join(DEVICES)} and does not fall back "
            "silently. Choose one of these."
        )
    if device == "cuda":
        return CudaExactMatcher(embeddings)
    return NumpyExactMatcher(embeddings)
