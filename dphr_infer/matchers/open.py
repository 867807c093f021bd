"""The one place where a device name becomes a matcher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import EngineError
from dphr_infer.matchers.base import Matcher
from dphr_infer.matchers.numpy_exact import NumpyExactMatcher

DEVICES = ("cpu",)


def open_matcher(embeddings: NDArray[np.float16] | NDArray[np.float32], device: str = "cpu") -> Matcher:
    """The exact matcher of a device, opened on gallery rows; enter it before use.

    Args:
        embeddings: float16 or float32 (N, D), rows of unit length, e.g. `Gallery.embeddings`.
        device: "cpu" is NumPy.

    Raises:
        EngineError: the device is unknown or not available here.
        GalleryError: another dtype or shape.
    """
    if device not in DEVICES:
        raise EngineError(
            f"Device {device!r} is not available: this runtime matches on {', '.join(DEVICES)} and does not fall back "
            "silently. Choose one of these."
        )
    return NumpyExactMatcher(embeddings)
