"""Writes a gallery row by row: memory does not grow with the map, and the file appears whole or not at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from dphr_infer.atomic import atomic_file, storage_error
from dphr_infer.errors import GalleryError
from dphr_infer.gallery import METADATA_KEY, GalleryOrigin
from dphr_infer.geo import east_north_m
from dphr_infer.hilbert import hilbert_order
from dphr_infer.types import GeoPoint

GalleryDtype = Literal["fp16", "fp32"]
GALLERY_DTYPES: tuple[GalleryDtype, ...] = ("fp16", "fp32")

_NUMPY_DTYPES: dict[GalleryDtype, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
_SAFETENSORS_DTYPES = {"fp16": "F16", "fp32": "F32"}
_COPY_BYTES = 8 << 20


class GalleryWriter:
    """A context manager that takes rows in any order and writes them in Hilbert order.

    Rows go to an unnamed file beside the target, which needs as much disk again until the end; in memory stay 16 bytes
    a row, the places. Leaving the `with` block writes the gallery; leaving it by an exception writes nothing.

    Args:
        path: the gallery's file; one that is there is replaced at the very end.
        origin: stored in the file.
        dim: length of an embedding.
        dtype: "fp16" or "fp32", how embeddings are stored.
    """

    def __init__(self, path: Path, origin: GalleryOrigin, dim: int, dtype: GalleryDtype = "fp16") -> None:
        if dtype not in GALLERY_DTYPES:
            raise GalleryError(f"Gallery dtype {dtype!r} is unknown; choose one of {', '.join(GALLERY_DTYPES)}.")
        self._path, self._origin, self._dim, self._dtype = path, origin, dim, dtype
        self._latitude: list[NDArray[np.float64]] = []
        self._longitude: list[NDArray[np.float64]] = []
        self._rows: BinaryIO | None = None
        self._n_rows = 0

    def __enter__(self) -> GalleryWriter:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that closing has nothing left to write and cannot fail on a full disk.
            self._rows = cast("BinaryIO", tempfile.TemporaryFile(dir=self._path.parent, buffering=0))
        except OSError as error:
            raise storage_error(self._path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        rows, self._rows = self._open_rows(), None
        try:
            if kind is None:
                self._assemble(rows)
        finally:
            rows.close()

    def _open_rows(self) -> BinaryIO:
        if self._rows is None:
            raise GalleryError(f"The writer of {self._path} is not open: use it inside a with statement.")
        return self._rows

    def append(
        self,
        embeddings: NDArray[np.float32],
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
    ) -> None:
        """Add rows.

        Args:
            embeddings: float32 (n, dim), unit length.
            latitude_deg, longitude_deg: float64 (n,), tile centres.

        Raises:
            GalleryError: other shapes, or values that are not finite.
            StorageError: the disk refused.
        """
        rows = self._open_rows()
        n = len(embeddings)
        if embeddings.shape != (n, self._dim) or np.shape(latitude_deg) != (n,) or np.shape(longitude_deg) != (n,):
            raise GalleryError(
                f"Rows of shape {embeddings.shape} with {np.shape(latitude_deg)} latitudes and "
                f"{np.shape(longitude_deg)} longitudes do not fit a gallery of {self._dim} dimensions."
            )
        if not all(np.isfinite(values).all() for values in (embeddings, latitude_deg, longitude_deg)):
            raise GalleryError("Embeddings or places are not finite: the model or the map's georeference is damaged.")
        try:
            left = memoryview(np.ascontiguousarray(embeddings, _NUMPY_DTYPES[self._dtype]).tobytes())
            while left:  # an unbuffered write may take less than it is given
                left = left[rows.write(left) :]
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._latitude.append(np.array(latitude_deg, np.float64))
        self._longitude.append(np.array(longitude_deg, np.float64))
        self._n_rows += n

    def _assemble(self, rows: BinaryIO) -> None:
        if self._n_rows == 0:
            raise GalleryError(f"{self._path} would hold no tile: there is nothing to index.")
        latitude, longitude = np.concatenate(self._latitude), np.concatenate(self._longitude)
        east, north = east_north_m(GeoPoint(float(latitude[0]), float(longitude[0])), latitude, longitude)
        order = hilbert_order(east, north)
        with atomic_file(self._path) as temporary, temporary.open("wb") as file:
            file.write(self._header())
            file.write(latitude[order].astype("<f8").tobytes())
            file.write(longitude[order].astype("<f8").tobytes())
            stored = np.memmap(rows, _NUMPY_DTYPES[self._dtype], "r", 0, (self._n_rows, self._dim))
            step = max(1, _COPY_BYTES // stored[0].nbytes)
            for first in range(0, self._n_rows, step):
                file.write(stored[order[first : first + step]].tobytes())

    def _header(self) -> bytes:
        """The safetensors header, padded with spaces so that the data begins at a multiple of 8 bytes."""
        n, dim = self._n_rows, self._dim
        places, values = 8 * n, n * dim * _NUMPY_DTYPES[self._dtype].itemsize
        content = {
            "__metadata__": {METADATA_KEY: self._origin.to_json()},
            "latitude_deg": {"dtype": "F64", "shape": [n], "data_offsets": [0, places]},
            "longitude_deg": {"dtype": "F64", "shape": [n], "data_offsets": [places, 2 * places]},
            "embeddings": {
                "dtype": _SAFETENSORS_DTYPES[self._dtype],
                "shape": [n, dim],
                "data_offsets": [2 * places, 2 * places + values],
            },
        }
        text = json.dumps(content).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text
