"""From paths and keywords to a localizer: what `dphr_infer.open` is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dphr_infer.files.bundle import Bundle, open_bundle
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.settings import DeviceSettings, LocateSettings, settings_of


def open_localizer(
    bundle: Bundle | str | Path, gallery: Gallery | str | Path, *, signer: str | Path | None = None, **settings: Any
) -> Localizer:
    """Open a bundle and its gallery, ready for `with`.

    Args:
        bundle: folder made by dphr-export, or an opened one.
        gallery: file made by dphr-infer index, or an opened one.
        signer: file of the public Ed25519 key that must have signed the bundle; None takes any bundle.
        settings: fields of `LocateSettings` and `DeviceSettings`, such as heading="north" or device="cuda".

    Raises:
        BundleError, GalleryError: missing, damaged, not signed, or not made for each other.
        ConfigError: an unknown setting, or a value out of range.
    """
    what, on = settings_of(settings, LocateSettings, DeviceSettings)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, signer)
    return Localizer(opened, gallery if isinstance(gallery, Gallery) else open_gallery(gallery), what, on)
