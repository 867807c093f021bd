"""What `dphr-infer locate` does, once its arguments are read."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dphr_infer.cli.requests import Locate, Search
from dphr_infer.cli.terminal import as_options
from dphr_infer.errors import ConfigError, ImageError, printable
from dphr_infer.evaluate.listing import summary_lines, to_text
from dphr_infer.evaluate.picture import draw_map, draw_matches
from dphr_infer.evaluate.scoring import LocatedPhoto, LocateSummary, summarise
from dphr_infer.evaluate.seen_from import attitude_lines
from dphr_infer.evaluate.truth import Truth, check_truths, read_truth, truth_of
from dphr_infer.files.bundle import open_bundle
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.files.outputs import MAP_PICTURE, Output, check_outputs, output_of, picture_names
from dphr_infer.images.photo import PhotoLike, each_photo
from dphr_infer.images.preprocess import read_image
from dphr_infer.locate.localizer import Localizer
from dphr_infer.maps.open_map import check_raster, open_map
from dphr_infer.maps.pack import is_map_pack
from dphr_infer.maps.raster import MapRaster
from dphr_infer.measure.progress import Progress
from dphr_infer.register.features import FeatureExtractor
from dphr_infer.register.registrar import Registrar
from dphr_infer.types import Prior


def open_search(search: Search, bundle: Path, gallery: Path) -> Localizer:
    """Bundle and gallery opened and checked; the localizer is not yet entered."""
    opened, tiles = open_bundle(bundle, search.signer), open_gallery(gallery)
    return Localizer(opened, tiles, search.settings, search.on, search.camera, registrar_of(search, tiles))


def registrar_of(search: Search, gallery: Gallery, extractor: FeatureExtractor | None = None) -> Registrar | None:
    """What lays photos on the search's map, not yet entered; None without a map, or with --no-verify.

    Raises:
        MapError: missing, damaged, or another map than the gallery's.
        MissingPackageError: OpenCV or rasterio is not installed.
    """
    if search.map is None or not search.verify:
        return None
    return Registrar(open_map(search.map, gallery), gallery.origin.tile_m, search.register, extractor)


def run(request: Locate) -> None:
    """Locate photos, print or write the list and the summary, draw the pictures.

    A photo that cannot be read or located is named in one line on stderr, the others go on.

    Raises:
        ImageError: at the end, if any photo failed.
        ConfigError: the map is not the gallery's, or an output would replace an input or another output.
        GalleryError: no tile lies within the prior.
        StorageError: an output cannot be written.
    """
    prior = request.search.prior
    localizer = open_search(request.search, request.bundle, request.gallery)
    gallery = localizer.gallery
    localizer.rows_in(prior)  # refused here, before the model is opened
    truths = {} if request.truth is None else read_truth(request.truth)
    paths = [Path(path) for path in each_photo(request.photos)]
    _check_outputs(request, paths)
    if request.truth is not None:
        check_truths(truths, request.truth, paths, gallery)
    if request.picture is not None and request.search.map is not None:
        if is_map_pack(request.search.map):
            raise ConfigError(
                "--picture needs the raster that the gallery was made from: give it as --map, not a pack."
            )
        check_raster(request.search.map, gallery)
    if localizer.settings.top_k > len(gallery):
        print(
            f"{gallery.path} has {len(gallery)} tiles, fewer than --top-k {localizer.settings.top_k}: all are looked "
            "at.",
            file=sys.stderr,
        )
    with localizer:
        photos = list(_locate_each(localizer, paths, truths, prior, request.verbose))
    summary = summarise(photos, gallery.origin.tile_m, len(truths.keys() - {path.name for path in paths}))
    if photos:
        _say_without_view(photos, request)
        _deliver(photos, summary, request)
    _draw(photos, localizer, request, picture_names(paths))
    if len(photos) < len(paths):
        raise ImageError(f"{len(paths) - len(photos)} of {len(paths)} photos could not be located; see above.")


def _check_outputs(request: Locate, photos: Sequence[Path]) -> None:
    outputs = {f"--{name}": output.path for name, output in _texts(request).items() if output.path is not None}
    if len(_texts(request)) - len(outputs) == 2:
        raise ConfigError("The list and --summary would both go to standard output: name a file for one of them.")
    if request.picture is not None:
        for name in (*picture_names(photos).values(), MAP_PICTURE):
            outputs[f"--picture ({name})"] = request.picture / name
    inputs: dict[str, Path | Sequence[Path]] = {"the gallery": request.gallery, "a photo": photos}
    if request.truth is not None:
        inputs["the truth"] = request.truth
    if request.search.map is not None:
        inputs["the map"] = request.search.map
    check_outputs(outputs, inputs, request.bundle)


def _locate_each(
    localizer: Localizer, paths: Sequence[Path], truths: dict[str, Truth], prior: Prior | None, verbose: bool
) -> Iterator[LocatedPhoto]:
    with Progress("photos", len(paths), "photos") as progress:

        def skip(path: PhotoLike, error: ImageError) -> None:
            text = as_options(str(error))
            print(printable(text if str(path) in text else f"{path}: {text}"), file=sys.stderr)
            progress.advance()

        for photo, estimate in localizer.locate_photos(paths, prior=prior, on_error=skip):
            path = Path(photo.source)
            if verbose:
                print(as_options("\n".join(attitude_lines(path.name, estimate))), file=sys.stderr)
            yield LocatedPhoto(path, photo.metadata, estimate, truth_of(path, photo.metadata, truths))
            progress.advance()


def _say_without_view(photos: Sequence[LocatedPhoto], request: Locate) -> None:
    """That photos were taken as they are although they were to be rectified, in one line."""
    without = [photo for photo in photos if (attitude := photo.estimate.attitude) is not None and not attitude.known]
    if without and request.search.camera.rectify == "auto":
        first = without[0]
        reason = "" if first.estimate.attitude is None else first.estimate.attitude.reason
        print(
            printable(
                f"{len(without)} of {len(photos)} photos were not rectified, the first {first.path.name}: attitude "
                f"{as_options(reason)}"
            ),
            file=sys.stderr,
        )


def _texts(request: Locate) -> dict[str, Output]:
    given = {"out": request.out, "summary": request.summary}
    return {name: output_of(text) for name, text in given.items() if text is not None}


def _deliver(photos: Sequence[LocatedPhoto], summary: LocateSummary, request: Locate) -> None:
    texts = _texts(request)
    texts["out"].write(to_text(photos, request.format))
    # What a program reads on standard output, a list in CSV or GeoJSON or the numbers: the words must not run into it.
    read = (texts["out"].path is None and request.format != "table") or texts.get("summary") == Output()
    print("\n".join(summary_lines(summary)), file=sys.stderr if read else sys.stdout)
    if "summary" in texts:
        texts["summary"].write(json.dumps(dataclasses.asdict(summary), indent=2) + "\n")


def _draw(photos: Sequence[LocatedPhoto], localizer: Localizer, request: Locate, names: dict[Path, str]) -> None:
    map_path, folder = request.search.map, request.picture
    if map_path is None or folder is None:
        return
    tile_m, heading = localizer.gallery.origin.tile_m, localizer.settings.heading
    with MapRaster(map_path) as raster, Progress("pictures", len(photos) + 1, "pictures") as progress:
        for photo in photos:
            image = read_image(photo.path)
            draw_matches(photo, image, raster, tile_m, heading, folder / names[photo.path])
            progress.advance()
        draw_map(photos, raster, folder / MAP_PICTURE)
        progress.advance()
    print(f"{printable(str(folder))}: {len(photos) + 1} pictures")
