"""The features of a map, block by block, found when first asked for and kept under a stated memory."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict

import numpy as np

from dphr_infer.geo import east_north_m, offset
from dphr_infer.maps.view import MapPixels
from dphr_infer.register.features import NO_FEATURES, FeatureExtractor, Features
from dphr_infer.types import GeoPoint

# Pixels of a block's side, and of the margin around it that its outermost features see.
BLOCK_PX = 256
MARGIN_PX = 32
# Features of the map to a megapixel; a photo's are counted likewise.
DENSITY = 9000


class MapFeatures:
    """Features of map blocks at stated resolutions.

    A block is a square of `BLOCK_PX` pixels; the lattice of blocks is laid about the map's middle.

    Args:
        pixels: the map, opened by the caller.
        extractor: what finds features.
        memory_bytes: most that the kept features take; the block that was not asked for longest goes first.
    """

    def __init__(self, pixels: MapPixels, extractor: FeatureExtractor, memory_bytes: int = 64 << 20) -> None:
        self._pixels, self._extractor, self._most_bytes = pixels, extractor, memory_bytes
        self._blocks: OrderedDict[tuple[float, bool, int, int], Features] = OrderedDict()
        self._bytes = 0

    def around(self, place: GeoPoint, radius_m: float, gsd_m: float, upright: bool) -> Features:
        """Features of the square of that half side around a place, at that resolution.

        Returns:
            points in metres east and north of the place.
        """
        origin, side_m = self._pixels.centre, BLOCK_PX * gsd_m
        (east,), (north,) = east_north_m(origin, np.array([place.latitude_deg]), np.array([place.longitude_deg]))
        columns, rows = (
            range(math.floor((middle - radius_m) / side_m), math.floor((middle + radius_m) / side_m) + 1)
            for middle in (east, north)
        )
        found = []
        for column, row in itertools.product(columns, rows):
            middle = offset(origin, (column + 0.5) * side_m, (row + 0.5) * side_m)
            block = self._block((gsd_m, upright, column, row), middle)
            away = east_north_m(place, np.array([middle.latitude_deg]), np.array([middle.longitude_deg]))
            points = block.points + np.concatenate(away).astype(np.float32)
            near = np.abs(points).max(1, initial=0) <= radius_m
            if near.any():
                found.append(Features(points[near], block.sizes[near], block.descriptors[near]))
        if not found:
            return NO_FEATURES
        parts = zip(*((one.points, one.sizes, one.descriptors) for one in found), strict=True)
        return Features(*map(np.concatenate, parts))

    def _block(self, key: tuple[float, bool, int, int], middle: GeoPoint) -> Features:
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        gsd_m, upright, _, _ = key
        side_px = BLOCK_PX + 2 * MARGIN_PX
        view = self._pixels.view(middle, side_px, side_px, gsd_m)
        block = NO_FEATURES
        if view.covered.any():
            most = math.ceil(DENSITY * side_px * side_px / 1e6)
            found = self._extractor.extract(view.image, view.covered, most, upright)
            own = ((found.points >= MARGIN_PX) & (found.points < MARGIN_PX + BLOCK_PX)).all(1)
            points = (found.points[own] - side_px / 2) * np.array([gsd_m, -gsd_m], np.float32)
            block = Features(points, found.sizes[own] * np.float32(gsd_m), found.descriptors[own])
        self._blocks[key] = block
        self._bytes += _bytes_of(block)
        while self._bytes > self._most_bytes and len(self._blocks) > 1:
            self._bytes -= _bytes_of(self._blocks.popitem(last=False)[1])
        return block


def _bytes_of(features: Features) -> int:
    return features.points.nbytes + features.sizes.nbytes + features.descriptors.nbytes
