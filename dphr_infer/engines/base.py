"""What every engine offers. An engine knows nothing of files of images, maps or galleries."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """Runs one model on one device. A context manager: memory is taken in `__enter__`, given back in `__exit__`.

    Attributes:
        name:   engine and device, for reports, e.g. "onnxruntime CPU fp32".
        dim:    length of an embedding.
        height_px, width_px: input size.
    """

    name: str
    dim: int
    height_px: int
    width_px: int

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a batch.

        An image's embedding depends on the shape of its batch, the number of threads and the processor in its last
        bits: libraries choose their kernels by them. With the same batch, engine and machine it is the same.

        Args:
            images: uint8 (B, height_px, width_px, 3), RGB, C-contiguous, B >= 1.

        Returns:
            float32 (B, dim), unit length.

        Raises:
            EngineError: another shape or dtype, or the device refused.
        """
        ...
