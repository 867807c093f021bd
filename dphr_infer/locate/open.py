"""From paths and keywords to a localizer: what `dphr_infer.open` is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dphr_infer.files.bundle import Bundle, open_bundle
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.settings import CameraSettings, DeviceSettings, LocateSettings, settings_of
from dphr_infer.maps.open_map import open_map
from dphr_infer.register.registrar import Registrar
from dphr_infer.register.settings import RegisterSettings


def open_localizer(
    bundle: Bundle | str | Path,
    gallery: Gallery | str | Path,
    *,
    map: str | Path | None = None,
    signer: str | Path | None = None,
    **settings: Any,
) -> Localizer:
    """Open a bundle and its gallery, ready for `with`.

    Args:
        bundle: folder made by dphr-export, or an opened one.
        gallery: file made by dphr-infer index, or an opened one.
        map: the gallery's raster or a map pack of it, on whose pixels photos are registered: estimates are then either
            verified or not to be used. None leaves retrieval alone.
        signer: file of the public Ed25519 key that must have signed the bundle; None takes any bundle.
        settings: fields of `LocateSettings`, `CameraSettings`, `RegisterSettings` and `DeviceSettings`, such as
            heading="north", pitch_deg=-60 or device="cuda".

    Raises:
        BundleError, GalleryError: missing, damaged, not signed, or not made for each other.
        MapError, MissingPackageError: the map is another one, or OpenCV or rasterio is not installed.
        ConfigError: an unknown setting, or a value out of range.
    """
    what, camera, register, on = settings_of(settings, LocateSettings, CameraSettings, RegisterSettings, DeviceSettings)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, signer)
    tiles = gallery if isinstance(gallery, Gallery) else open_gallery(gallery)
    registrar = None if map is None else Registrar(open_map(map, tiles), tiles.origin.tile_m, register)
    return Localizer(opened, tiles, what, on, camera, registrar)
