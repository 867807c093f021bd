"""Images of any size -> embeddings. Queries and gallery tiles both pass here, so they cannot differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dphr_infer.engines.base import Engine
from dphr_infer.errors import EngineError
from dphr_infer.images.preprocess import Preprocess, check_image_size
from dphr_infer.types import EMBED_BATCH

UNIT_TOLERANCE = 5e-3


class Embedder:
    """Preprocess and engine in one hand.

    Args:
        preprocess: the bundle's.
        engine: entered by the caller, of the same input size.
        batch: images handed to the engine at once.
    """

    def __init__(self, preprocess: Preprocess, engine: Engine, batch: int = EMBED_BATCH) -> None:
        if batch < 1:
            raise EngineError(f"batch is {batch}; it must be at least 1.")
        self._preprocess, self._engine, self._batch = preprocess, engine, batch

    @property
    def dim(self) -> int:
        """Length of an embedding, once the engine is entered."""
        return self._engine.dim

    def prepare(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Bring images to model size.

        Args:
            images: n >= 1 of uint8 (H, W, 3), RGB, each of its own size.

        Returns:
            uint8 (n, height_px, width_px, 3), C-contiguous.

        Raises:
            ImageError: a side below 16 px, or more than 120 megapixels.
        """
        for image in images:
            check_image_size(image.shape[1], image.shape[0], "The image")
        return np.stack([self._preprocess(image) for image in images])

    def embed_prepared(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed images of model size, `batch` at a time.

        Args:
            images: uint8 (n, height_px, width_px, 3), n >= 1.

        Returns:
            float32 (n, dim), unit length.

        Raises:
            EngineError: the engine refused, or an embedding is not of unit length.
        """
        parts = [self._engine.embed(images[i : i + self._batch]) for i in range(0, len(images), self._batch)]
        embeddings = np.concatenate(parts)
        lengths = np.linalg.norm(embeddings, axis=1)
        worst = float(lengths[np.argmax(np.abs(lengths - 1))])
        if not abs(worst - 1) <= UNIT_TOLERANCE:  # written so that NaN is refused too
            raise EngineError(
                f"{self._engine.name} gave an embedding of length {worst:.4f} instead of 1. The model lacks its "
                "normalising head or is damaged: export the bundle again."
            )
        return embeddings

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Bring images to model size and embed them; never more than `batch` prepared images in memory.

        Args:
            images: n >= 1 of uint8 (H, W, 3), RGB, each of its own size.

        Returns:
            float32 (n, dim), unit length.

        Raises:
            ImageError: an image is too small or too large.
            EngineError: the engine refused.
        """
        step = self._batch
        return np.concatenate(
            [self.embed_prepared(self.prepare(images[i : i + step])) for i in range(0, len(images), step)]
        )
