"""What a raster has to be: georeferenced, and of three colours of 8 bits. Each refusal names the command that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dphr_infer.errors import MapError


def check_georeference(path: Path, dataset: Any) -> None:
    """Refuse an opened raster whose pixels have no place on the ground.

    Raises:
        MapError: no coordinate reference system, or no geotransform.
    """
    if dataset.crs is None or dataset.transform.is_identity:
        lacks = "coordinate reference system" if dataset.crs is None else "geotransform"
        raise MapError(
            f"{path} has no georeference (no {lacks}), so its pixels have no place on the ground. Assign one, "
            "e.g. gdal_translate -a_srs EPSG:… -a_ullr WEST NORTH EAST SOUTH"
        )


def colour_bands(path: Path, dataset: Any) -> tuple[int, ...]:
    """Numbers of the red, green and blue bands of an opened raster, the first three unless it names them.

    Raises:
        MapError: fewer than three bands, or not of 8 bits.
    """
    if dataset.count < 3:
        raise MapError(
            f"{path} has {dataset.count} band(s); red, green and blue are needed. A palette becomes "
            f"three bands with: gdal_translate -expand rgb {path.name} rgb.tif"
        )
    named = {interpretation.name: index + 1 for index, interpretation in enumerate(dataset.colorinterp)}
    bands = tuple(named.get(name, i + 1) for i, name in enumerate(("red", "green", "blue")))
    kinds = {dataset.dtypes[band - 1] for band in bands}
    if kinds != {"uint8"}:
        raise MapError(
            f"{path} has {', '.join(sorted(kinds))} pixels; 8 bits are needed. Convert it with a scale that "
            f"suits its contrast: gdal_translate -ot Byte -scale {path.name} bytes.tif"
        )
    return bands
