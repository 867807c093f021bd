"""What `dphr-infer inspect` says of a bundle, a gallery or a map pack."""

from __future__ import annotations

from dphr_infer.cli.requests import Inspect
from dphr_infer.errors import printable
from dphr_infer.files.bundle import MANIFEST_NAME, Bundle, open_bundle
from dphr_infer.files.calibration import calibration_lines
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.maps.pack import MapPack, is_map_pack, open_map_pack


def run(request: Inspect) -> None:
    """Say what a bundle (a folder), a gallery or a map pack (files) holds."""
    path = request.path
    if path.is_dir():
        lines = _bundle_lines(open_bundle(path))
    elif is_map_pack(path):
        with open_map_pack(path) as pack:
            lines = _pack_lines(pack)
    else:
        lines = _gallery_lines(open_gallery(path))
    print("\n".join(printable(line) for line in lines))


def _bundle_lines(bundle: Bundle) -> list[str]:
    manifest, size = bundle.manifest, bundle.manifest.preprocess
    lines = [
        f"bundle      {bundle.folder}",
        f"digest      {bundle.digest}",
        f"encoder     {manifest.encoder}, {manifest.dim} values per embedding",
        f"input       {size.width_px}x{size.height_px} px, {size.interpolation}, {size.fit}",
    ]
    for precision, parity in manifest.parity.items():
        lines.append(
            f"parity      {precision}: min cosine {parity.min_cosine:.6f}, recall drop {parity.recall_drop:.4f}, "
            f"AP drop {parity.ap_drop:.4f}, {parity.n_images} images"
        )
    if (made := manifest.quantisation) is not None:
        lines.append(
            f"int8        recipe {made.recipe}, {len(made.float_layers)} layers left in half precision, calibrated on "
            f"{made.n_calibration_images} images"
        )
    lines += calibration_lines(manifest.calibration)
    lines += [f"origin      {key}: {value}" for key, value in sorted(manifest.origin.items())]
    files = [bundle.folder / name for name in (MANIFEST_NAME, *sorted(manifest.files))]
    lines += [f"file        {path.relative_to(bundle.folder)}  {path.stat().st_size} bytes" for path in files]
    return lines


def _gallery_lines(gallery: Gallery) -> list[str]:
    origin = gallery.origin
    return [
        f"gallery     {gallery.path}, {gallery.path.stat().st_size} bytes",
        f"tiles       {len(gallery)} of {origin.tile_m:g} x {origin.tile_m:g} m, every {origin.stride_m:g} m",
        f"embeddings  {gallery.dim} values, {gallery.embeddings.dtype}, made in {origin.precision}",
        f"bundle      {origin.bundle_digest}",
        f"map         {origin.map_name}, {origin.crs}, sha256 {origin.map_sha256}",
        f"latitude    WGS84, {gallery.latitude_deg.min():.6f} to {gallery.latitude_deg.max():.6f}",
        f"longitude   WGS84, {gallery.longitude_deg.min():.6f} to {gallery.longitude_deg.max():.6f}",
    ]


def _pack_lines(pack: MapPack) -> list[str]:
    origin, levels = pack.origin, sorted(pack.tile_counts().items(), reverse=True)
    return [
        f"map pack    {pack.path}, {pack.path.stat().st_size} bytes, WebP of quality {origin.quality}",
        f"pixels      {pack.gsd_m:.4g} m at {origin.latitude_deg:.6f},{origin.longitude_deg:.6f}",
        *(f"level       zoom {zoom}: {count} tiles, {size} bytes" for zoom, (count, size) in levels),
        f"map         {origin.map_name}, {origin.map_gsd_m:.4g} m a pixel, {origin.crs}, sha256 {origin.map_sha256}",
        f"made by     dphr {origin.made_by}",
    ]
