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
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dphr_infer.bundle import Bundle
from dphr_infer.errors import GalleryError
from dphr_infer.geo import east_north_m
from dphr_infer.types import GeoPoint

FORMAT = "dphr-gallery"
VERSION = 1
METADATA_KEY = "gallery"

_NUMPY_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}

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


@dataclass(frozen=True, slots=True, eq=False)
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

    def distances_m(self, point: GeoPoint) -> NDArray[np.float64]:
        """Distance of every tile centre from a point, float64 (N,), in its tangent plane."""
        return np.hypot(*east_north_m(point, self.latitude_deg, self.longitude_deg))

    def rows_within(self, point: GeoPoint, radius_m: float) -> tuple[tuple[int, int], ...]:
        """The rows whose tile centre lies at most `radius_m` from a point.

        Returns:
            Sorted, disjoint, half-open [start, stop) ranges that touch nowhere; none where nothing lies near.
        """
        inside = np.concatenate([[False], self.distances_m(point) <= radius_m, [False]])
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        return tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def open_gallery(path: Path) -> Gallery:
    """Open a gallery without reading its embeddings.

    Raises:
        GalleryError: missing, damaged, cut short, or of another format or version.
    """
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
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
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
    if (raw.pop("format"), raw["version"]) != (FORMAT, VERSION):
        raise GalleryError(
            f"{path} is a gallery of version {raw['version']}; this program reads {VERSION}. Index the map again."
        )
    del raw["version"]
    origin = GalleryOrigin(**raw)
    if not (origin.tile_m > 0 and origin.stride_m > 0):
        raise ValueError(f"tile {origin.tile_m} m, stride {origin.stride_m} m")
    return origin


def _check_places(path: Path, embeddings: Rows, latitude: NDArray[Any], longitude: NDArray[Any]) -> None:
    n = len(embeddings)
    if latitude.shape != (n,) or longitude.shape != (n,) or {latitude.dtype, longitude.dtype} != {np.dtype("<f8")}:
        raise GalleryError(
            f"{path} holds {n} embeddings, but latitudes {latitude.dtype} {latitude.shape} and longitudes "
            f"{longitude.dtype} {longitude.shape}; float64 ({n},) is needed. Index the map again."
        )
    # Written so that NaN fails as well.
    if not ((np.abs(latitude) <= 90).all() and (np.abs(longitude) <= 180).all()):
        raise GalleryError(f"{path} holds places outside latitude ±90° or longitude ±180°. Index the map again.")
