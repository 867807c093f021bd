"""What flies: from a photo and a geotagged gallery to a position. NumPy, Pillow and safetensors; never torch.

    import dphr_infer as dphr

    dphr.index("map.tif", bundle="samples/bundle", out="brighton.gallery", tile_m=26, stride_m=2)
    with dphr.open("samples/bundle", "brighton.gallery", heading="north") as localizer:  # device="cuda" on the drone
        for fix in localizer.locate_each("photos/", prior=dphr.Prior(46.84, -91.99, radius_m=500)):
            print(fix.source, fix.latitude_deg, fix.longitude_deg, fix.radius_m, fix.accepted)

These names are the promise; everything else in the package may move.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dphr_infer.errors import DphrError
    from dphr_infer.files.bundle import open_bundle
    from dphr_infer.files.gallery import open_gallery
    from dphr_infer.flight.fix import Fix, NoFix, Odometry
    from dphr_infer.flight.flight import Flight
    from dphr_infer.images.preprocess import read_image
    from dphr_infer.indexing.index import index
    from dphr_infer.locate.localizer import Localizer
    from dphr_infer.locate.open import open_localizer as open
    from dphr_infer.locate.settings import LocateSettings
    from dphr_infer.types import GeoPoint, LocationEstimate, Prior

__version__ = "0.1.0"

__all__ = [
    "DphrError",
    "Fix",
    "Flight",
    "GeoPoint",
    "Localizer",
    "LocateSettings",
    "LocationEstimate",
    "NoFix",
    "Odometry",
    "Prior",
    "__version__",
    "index",
    "open",
    "open_bundle",
    "open_gallery",
    "read_image",
]

# Each name is loaded from its room when it is first used, so that the import costs nothing.
_ROOMS = {
    "DphrError": "dphr_infer.errors",
    "Fix": "dphr_infer.flight.fix",
    "Flight": "dphr_infer.flight.flight",
    "GeoPoint": "dphr_infer.types",
    "Localizer": "dphr_infer.locate.localizer",
    "LocateSettings": "dphr_infer.locate.settings",
    "LocationEstimate": "dphr_infer.types",
    "NoFix": "dphr_infer.flight.fix",
    "Odometry": "dphr_infer.flight.fix",
    "Prior": "dphr_infer.types",
    "index": "dphr_infer.indexing.index",
    "open": "dphr_infer.locate.open:open_localizer",
    "open_bundle": "dphr_infer.files.bundle",
    "open_gallery": "dphr_infer.files.gallery",
    "read_image": "dphr_infer.images.preprocess",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    room, _, spelled = _ROOMS[name].partition(":")
    value = getattr(importlib.import_module(room), spelled or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
