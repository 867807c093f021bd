"""What the commands of dphr-infer do, once their arguments are read."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dphr_infer.cli.picture import draw_map, draw_matches
from dphr_infer.errors import ConfigError, ImageError, printable
from dphr_infer.evaluate.listing import Format, summary_lines, to_text
from dphr_infer.evaluate.scoring import LocatedPhoto, LocateSummary, summarise
from dphr_infer.evaluate.truth import Truth, check_truths, read_truth, truth_of
from dphr_infer.files.bundle import MANIFEST_NAME, Bundle, Precision, file_digest, open_bundle
from dphr_infer.files.gallery import Gallery, GalleryDtype, open_gallery
from dphr_infer.files.outputs import MAP_PICTURE, Output, check_outputs, picture_names
from dphr_infer.images.metadata import read_photo_metadata
from dphr_infer.images.preprocess import list_images, read_image
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.search_options import SearchOptions
from dphr_infer.maps.index import index_map
from dphr_infer.maps.raster import MapRaster
from dphr_infer.measure.progress import Progress


@dataclass(frozen=True, slots=True)
class LocateRequest:
    """What `locate` was asked for."""

    search: SearchOptions
    photos: tuple[Path, ...]
    form: Format
    out: Output
    truth: Path | None
    summary: Output | None
    picture: Path | None
    map: Path | None

    def __post_init__(self) -> None:
        if self.picture is not None and self.map is None:
            raise ConfigError("--picture needs --map, the map that the gallery was made from.")


def index(
    bundle: Path,
    map_path: Path,
    out: Path,
    *,
    tile_m: float,
    stride_m: float,
    precision: Precision,
    dtype: GalleryDtype,
    max_nodata: float,
    batch: int,
    threads: int | None,
    device: str = "cpu",
    signer: Path | None = None,
) -> None:
    """Index a map and say what came of it."""
    report = index_map(
        open_bundle(bundle, signer),
        map_path,
        out,
        tile_m=tile_m,
        stride_m=stride_m,
        precision=precision,
        dtype=dtype,
        max_nodata=max_nodata,
        batch=batch,
        threads=threads,
        device=device,
    )
    skipped = f", {report.skipped} skipped (more than {max_nodata:.0%} without data)" if report.skipped else ""
    print(f"{printable(str(out))}: {report.indexed} tiles of {tile_m:g} m{skipped}, {out.stat().st_size / 1e6:.1f} MB")


def _list_photos(paths: Sequence[Path]) -> list[Path]:
    return [photo for path in paths for photo in (list_images(path) if path.is_dir() else [path])]


def locate(request: LocateRequest) -> None:
    """Locate photos, print or write the list and the summary, draw the pictures.

    A photo that cannot be read or located is named in one line on stderr, the others go on.

    Raises:
        ImageError: at the end, if any photo failed.
        ConfigError: the map is not the gallery's, or an output would replace an input or another output.
        GalleryError: no tile lies within the prior.
        StorageError: an output cannot be written.
    """
    search = request.search
    bundle, gallery = search.open_files()
    truths = {} if request.truth is None else read_truth(request.truth)
    paths = _list_photos(request.photos)
    _check_outputs(request, paths)
    if request.truth is not None:
        check_truths(truths, request.truth, paths, gallery)
    if request.map is not None:
        _check_map(request.map, gallery)
    if search.top_k > len(gallery):
        print(
            f"{search.gallery} has {len(gallery)} tiles, fewer than --top-k {search.top_k}: all are looked at.",
            file=sys.stderr,
        )
    with search.open(bundle, gallery) as localizer:
        photos = list(_locate_each(localizer, paths, truths, search))
    summary = summarise(photos, gallery.origin.tile_m, len(truths.keys() - {path.name for path in paths}))
    if photos:
        _deliver(photos, summary, request)
    _draw(photos, gallery, request, picture_names(paths))
    if len(photos) < len(paths):
        raise ImageError(f"{len(paths) - len(photos)} of {len(paths)} photos could not be located; see above.")


def _check_outputs(request: LocateRequest, photos: Sequence[Path]) -> None:
    if request.summary == request.out == Output():
        raise ConfigError("The list and --summary would both go to standard output: name a file for one of them.")
    named = {"--out": request.out, "--summary": request.summary or Output()}
    outputs = {option: output.path for option, output in named.items() if output.path is not None}
    if request.picture is not None:
        for name in (*picture_names(photos).values(), MAP_PICTURE):
            outputs[f"--picture ({name})"] = request.picture / name
    inputs: dict[str, Path | Sequence[Path]] = {"the gallery": request.search.gallery, "a photo": photos}
    if request.truth is not None:
        inputs["the truth"] = request.truth
    if request.map is not None:
        inputs["the map"] = request.map
    check_outputs(outputs, inputs, request.search.bundle)


def _locate_each(
    localizer: Localizer, paths: Sequence[Path], truths: dict[str, Truth], search: SearchOptions
) -> Iterator[LocatedPhoto]:
    with Progress("photos", len(paths), "photos") as progress:
        for path in paths:
            try:
                metadata = read_photo_metadata(path)
                estimate = search.locate(localizer, read_image(path), metadata.yaw_deg)
                yield LocatedPhoto(path, metadata, estimate, truth_of(path, metadata, truths))
            except ImageError as error:
                text = str(error)
                print(printable(text if str(path) in text else f"{path}: {text}"), file=sys.stderr)
            progress.advance()


def _deliver(photos: Sequence[LocatedPhoto], summary: LocateSummary, request: LocateRequest) -> None:
    request.out.write(to_text(photos, request.form))
    # What a program reads on standard output, a list in CSV or GeoJSON or the numbers: the words must not run into it.
    read = (request.out == Output() and request.form != "table") or request.summary == Output()
    stream = sys.stderr if read else sys.stdout
    print("\n".join(summary_lines(summary)), file=stream)
    if request.summary is not None:
        request.summary.write(json.dumps(dataclasses.asdict(summary), indent=2) + "\n")


def _check_map(map_path: Path, gallery: Gallery) -> None:
    if map_path.is_dir():
        raise ConfigError(f"{map_path} is a folder. Name the raster file in it.")
    if not map_path.is_file():
        raise ConfigError(f"{map_path} {'is not a regular file' if map_path.exists() else 'does not exist'}.")
    found = file_digest(map_path)
    if found != gallery.origin.map_sha256:
        raise ConfigError(
            f"{map_path} is not the map of {gallery.path}: its sha256 is {found[:12]}…, the gallery was made from "
            f"{gallery.origin.map_name} with {gallery.origin.map_sha256[:12]}…. Give that map."
        )


def _draw(photos: Sequence[LocatedPhoto], gallery: Gallery, request: LocateRequest, names: dict[Path, str]) -> None:
    map_path, folder = request.map, request.picture
    if map_path is None or folder is None:
        return
    with MapRaster(map_path) as raster, Progress("pictures", len(photos) + 1, "pictures") as progress:
        for photo in photos:
            image = read_image(photo.path)
            draw_matches(
                photo, image, raster, gallery.origin.tile_m, request.search.heading, folder / names[photo.path]
            )
            progress.advance()
        draw_map(photos, raster, folder / MAP_PICTURE)
        progress.advance()
    print(f"{printable(str(folder))}: {len(photos) + 1} pictures")


def inspect(path: Path) -> None:
    """Say what a bundle (a folder) or a gallery (a file) holds."""
    lines = _bundle_lines(open_bundle(path)) if path.is_dir() else _gallery_lines(open_gallery(path))
    print("\n".join(printable(line) for line in lines))


def _bundle_lines(bundle: Bundle) -> list[str]:
    manifest, size = bundle.manifest, bundle.manifest.preprocess
    lines = [
        f"bundle      {bundle.folder}",
        f"digest      {bundle.digest}",
        f"encoder     {manifest.encoder}, {manifest.dim} values an embedding",
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
