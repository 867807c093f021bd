"""A gallery is one safetensors file: the embeddings of a map's tiles and where each tile's centre lies.

    embeddings      float16 or float32 (N, D), rows of unit length, in Hilbert order of their places
    latitude_deg    float64 (N,), WGS84
    longitude_deg   float64 (N,), WGS84
    __metadata__    {"gallery": JSON}, the fields of `GalleryOrigin` with "format": "dphr-gallery" and "version": 1

`open_gallery` maps the embeddings into memory and reads only what a search touches; `GalleryWriter` streams rows to the
disk. Rows lie in Hilbert order, so that the tiles around a place form few row ranges.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dphr_infer.errors import GalleryError
from dphr_infer.files.atomic import atomic_file, check_target, storage_error
from dphr_infer.files.bundle import Bundle
from dphr_infer.files.hilbert import hilbert_order
from dphr_infer.files.row_blocks import RowBlocks
from dphr_infer.geo import east_north_m
from dphr_infer.types import GALLERY_DTYPES, GalleryDtype, GeoPoint, Prior, RowRanges

FORMAT = "dphr-gallery"
VERSION = 1
METADATA_KEY = "gallery"

# Safetensors' names for them.
_STORED_NAMES: dict[GalleryDtype, str] = {"fp16": "F16", "fp32": "F32"}
_NUMPY_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_COPY_BYTES = 8 << 20

Rows = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GalleryOrigin:
    """How a gallery came to be.

    Attributes:
        bundle_digest: of the bundle whose model made the embeddings.
        tile_m: side of a tile on the ground, in true metres.
        stride_m: distance between neighbouring tile centres, in true metres.
        map_name: file name of the map, for people.
        map_sha256: of the map file, in hex; empty for galleries that were not made from a file.
        crs: coordinate reference system of the map, for people; the places are WGS84.
        precision: of the model, for people.
    """

    bundle_digest: str
    tile_m: float
    stride_m: float
    map_name: str
    map_sha256: str
    crs: str
    precision: str

    def to_json(self) -> str:
        """The JSON that is stored in the file's metadata."""
        return json.dumps({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, sort_keys=True)


@dataclass(frozen=True, eq=False)
class Gallery:
    """Embeddings and places of a map's tiles, row by row.

    Attributes:
        embeddings: float16 or float32 (N, D), unit length; memory-mapped, read-only.
        latitude_deg, longitude_deg: float64 (N,), the tile centres.
        origin: how the gallery came to be.
        path: its file.
    """

    embeddings: Rows
    latitude_deg: NDArray[np.float64]
    longitude_deg: NDArray[np.float64]
    origin: GalleryOrigin
    path: Path

    def __len__(self) -> int:
        return len(self.latitude_deg)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.embeddings.shape[1])

    @property
    def bundle_digest(self) -> str:
        """Digest of the bundle that made the embeddings."""
        return self.origin.bundle_digest

    def point(self, row: int) -> GeoPoint:
        """Centre of a row's tile."""
        return GeoPoint(float(self.latitude_deg[row]), float(self.longitude_deg[row]))

    def check_bundle(self, bundle: Bundle) -> None:
        """Refuse to be searched with another model's embeddings.

        Raises:
            GalleryError: another bundle made this gallery, or the lengths of the embeddings differ.
        """
        if self.bundle_digest != bundle.digest:
            raise GalleryError(
                f"{self.path} was made by the bundle {self.bundle_digest[:12]}…, but {bundle.folder} is "
                f"{bundle.digest[:12]}…. Embeddings of two models cannot be compared: index the map again with "
                "this bundle."
            )
        if self.dim != bundle.manifest.dim:
            raise GalleryError(
                f"{self.path} holds embeddings of {self.dim} values, but the bundle's have {bundle.manifest.dim}: "
                "index the map again."
            )

    @functools.cached_property
    def _blocks(self) -> RowBlocks:
        return RowBlocks(self.latitude_deg, self.longitude_deg)

    def distances_m(self, point: GeoPoint) -> NDArray[np.float64]:
        """Distance of every tile centre from a point, float64 (N,), in its tangent plane."""
        return np.hypot(*east_north_m(point, self.latitude_deg, self.longitude_deg))

    def rows_within(self, point: GeoPoint, radius_m: float) -> tuple[tuple[int, int], ...]:
        """The rows whose tile centre lies at most `radius_m` from a point.

        Returns:
            Sorted, disjoint, half-open [start, stop) ranges that touch nowhere; none where nothing lies near.
        """
        return self._blocks.ranges_within(point, radius_m)

    def rows_in(self, prior: Prior) -> RowRanges:
        """The rows whose tile centre lies within a prior. Resolve a prior that stays the same once.

        Raises:
            GalleryError: no tile lies there.
        """
        ranges = self.rows_within(prior.centre, prior.radius_m)
        if not ranges:
            nearest = _readable(float(self.distances_m(prior.centre).min()))
            raise GalleryError(
                f"No tile of the gallery lies within {_readable(prior.radius_m)} of {prior.latitude_deg:.6f},"
                f"{prior.longitude_deg:.6f}; the nearest is {nearest} away. Widen the radius, or take the gallery of "
                "that region."
            )
        return RowRanges(ranges)


def _readable(distance_m: float) -> str:
    return f"{distance_m:.3g} m" if distance_m < 999.5 else f"{distance_m / 1000:,.1f} km"


def open_gallery(path: str | Path) -> Gallery:
    """Open a gallery without reading its embeddings.

    Raises:
        GalleryError: missing, damaged, cut short, or of another format or version.
    """
    path = Path(path)
    if not path.is_file():
        raise GalleryError(f"{path} is not a file. Make a gallery with: dphr-infer index BUNDLE MAP --out GALLERY")
    try:
        with safe_open(path, framework="np") as file:
            names, metadata = set(file.keys()), file.metadata() or {}
            if METADATA_KEY not in metadata or names != {"embeddings", "latitude_deg", "longitude_deg"}:
                raise GalleryError(f"{path} is a safetensors file, but not a gallery. Make one with dphr-infer index.")
            latitude, longitude = file.get_tensor("latitude_deg"), file.get_tensor("longitude_deg")
        embeddings = _map_embeddings(path)
        origin = _parse_origin(metadata[METADATA_KEY], path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GalleryError(
            f"{path} is damaged, cut short, or not a gallery ({error}). Copy it again, or index the map again."
        ) from error
    _check_places(path, embeddings, latitude, longitude)
    return Gallery(embeddings, latitude, longitude, origin, path)


def _map_embeddings(path: Path) -> Rows:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(header_bytes))["embeddings"]
    dtype = _NUMPY_DTYPES[entry["dtype"]]
    rows, dim = entry["shape"]
    return np.memmap(path, dtype, "r", 8 + header_bytes + entry["data_offsets"][0], (rows, dim))


def _parse_origin(text: str, path: Path) -> GalleryOrigin:
    raw: dict[str, Any] = json.loads(text)
    if not isinstance(raw, dict):
        raise TypeError(f"its metadata is {type(raw).__name__}, not an object")
    if (raw.pop("format"), raw["version"]) != (FORMAT, VERSION):
        raise GalleryError(
            f"{path} is a gallery of version {raw['version']}; this program reads {VERSION}. Index the map again."
        )
    del raw["version"]
    origin = GalleryOrigin(**raw)
    for name, value in dataclasses.asdict(origin).items():
        if not isinstance(value, float | int if name.endswith("_m") else str):
            raise TypeError(f"its {name} is {value!r}")
    if not (0 < origin.tile_m < math.inf and 0 < origin.stride_m < math.inf):
        raise ValueError(f"tile {origin.tile_m} m, stride {origin.stride_m} m")
    return origin


def _check_places(path: Path, embeddings: Rows, latitude: NDArray[Any], longitude: NDArray[Any]) -> None:
    n = len(embeddings)
    if latitude.shape != (n,) or longitude.shape != (n,) or {latitude.dtype, longitude.dtype} != {np.dtype("<f8")}:
        raise GalleryError(
            f"{path} holds {n} embeddings, but latitudes {latitude.dtype} {latitude.shape} and longitudes "
            f"{longitude.dtype} {longitude.shape}; expected float64 ({n},). Index the map again."
        )
    # Written so that NaN fails as well.
    if not ((np.abs(latitude) <= 90).all() and (np.abs(longitude) <= 180).all()):
        raise GalleryError(f"{path} holds places outside latitude ±90° or longitude ±180°. Index the map again.")


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
        self._stored_dtype = _NUMPY_DTYPES[_STORED_NAMES[dtype]]
        self._latitude: list[NDArray[np.float64]] = []
        self._longitude: list[NDArray[np.float64]] = []
        self._rows: BinaryIO | None = None
        self._n_rows = 0

    def __enter__(self) -> GalleryWriter:
        check_target(self._path)
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
            left = memoryview(np.ascontiguousarray(embeddings, self._stored_dtype).tobytes())
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
            stored = np.memmap(rows, self._stored_dtype, "r", 0, (self._n_rows, self._dim))
            step = max(1, _COPY_BYTES // stored[0].nbytes)
            for first in range(0, self._n_rows, step):
                file.write(stored[order[first : first + step]].tobytes())

    def _header(self) -> bytes:
        """The safetensors header, padded with spaces so that the data begins at a multiple of 8 bytes."""
        n, dim = self._n_rows, self._dim
        places, values = 8 * n, n * dim * self._stored_dtype.itemsize
        content = {
            "__metadata__": {METADATA_KEY: self._origin.to_json()},
            "latitude_deg": {"dtype": "F64", "shape": [n], "data_offsets": [0, places]},
            "longitude_deg": {"dtype": "F64", "shape": [n], "data_offsets": [places, 2 * places]},
            "embeddings": {
                "dtype": _STORED_NAMES[self._dtype],
                "shape": [n, dim],
                "data_offsets": [2 * places, 2 * places + values],
            },
        }
        text = json.dumps(content).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text
