"""dphr-infer: index a map, locate photos or a camera's frames on it, look into files, and check the installation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dphr_infer.cli import commands
from dphr_infer.cli.doctor import diagnose
from dphr_infer.cli.terminal import run_command
from dphr_infer.evaluate.listing import FORMATS
from dphr_infer.files.bundle import PRECISIONS
from dphr_infer.files.gallery import GALLERY_DTYPES
from dphr_infer.files.outputs import output_of, path_of
from dphr_infer.locate.embedder import DEFAULT_BATCH
from dphr_infer.locate.localizer import DEFAULT_ROTATIONS, DEFAULT_TOP_K, HEADINGS, AcceptRule
from dphr_infer.locate.open_engine import DEVICES
from dphr_infer.locate.search_options import SearchOptions, prior_of
from dphr_infer.maps.index import DEFAULT_MAX_NODATA
from dphr_infer.types import GeoPoint
from dphr_infer.watch.frames import DEFAULT_RECONNECTS, DEFAULT_STALL_S, SourceSettings
from dphr_infer.watch.watch import DEFAULT_QUEUE, WatchRequest, run_watch

PROGRAM = "dphr-infer"

_LOCATE_WORDS = """\
what the list says of each photo:
  latitude, longitude   WGS84 degrees of the ground at the photo's centre
  similarity            cosine of the photo's embedding and the best tile's, in [-1, 1]; higher is nearer. Its usual
                        height depends on the model: read it off photos whose place you know
  accepted              yes if, among the top K matches, at least --agreeing lie within a tile's side of the best (that
                        one included) and the similarity is at least --min-similarity; drop the others
  radius                largest distance of those agreeing matches from the place, at least half the stride; an
                        indication of the error, not a bound
"""


def _geo_point(text: str) -> GeoPoint:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LAT,LON in degrees, e.g. 46.8426,-91.9946") from None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise argparse.ArgumentTypeError(f"{text!r} lies outside latitude ±90, longitude ±180")
    return GeoPoint(latitude, longitude)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the model (%(default)s)")
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="cuda embeds by TensorRT and matches on the first GPU, cuda-onnxruntime embeds by ONNX Runtime there; "
        "neither falls back (%(default)s)",
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of a CPU; 0 takes all cores (%(default)s)")


def _add_signer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--require-signature",
        type=Path,
        metavar="PUBLIC.pem",
        dest="signer",
        help="refuse a bundle that this Ed25519 key has not signed",
    )


def _add_index(commands_parser: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands_parser.add_parser("index", help="embed the tiles of a georeferenced map into a gallery")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by dphr-export")
    parser.add_argument("map", type=Path, metavar="MAP.tif", help="georeferenced raster, 8 bits, 3 bands or more")
    parser.add_argument("--tile-m", type=float, required=True, metavar="M", help="side of a tile in true metres")
    parser.add_argument("--stride-m", type=float, required=True, metavar="M", help="distance between tile centres")
    parser.add_argument("--out", type=Path, required=True, metavar="GALLERY", help="the gallery file to write")
    parser.add_argument(
        "--dtype", choices=GALLERY_DTYPES, default="fp16", help="how embeddings are stored (%(default)s)"
    )
    parser.add_argument(
        "--max-nodata",
        type=float,
        default=DEFAULT_MAX_NODATA,
        metavar="SHARE",
        help="skip a tile with a larger share of pixels without data (%(default)s)",
    )
    parser.add_argument("--batch", type=int, default=DEFAULT_BATCH, metavar="N", help="tiles at once (%(default)s)")
    _add_device(parser)
    _add_signer(parser)


def _add_search(parser: argparse.ArgumentParser) -> None:
    rule = AcceptRule()
    parser.add_argument("--top-k", type=int, default=DEFAULT_TOP_K, metavar="K", help="matches a photo (%(default)s)")
    parser.add_argument(
        "--heading",
        choices=HEADINGS,
        default="as-is",
        help="take the photo as it is, turn north up by its yaw, or search over rotations (%(default)s)",
    )
    parser.add_argument(
        "--rotations", type=int, default=DEFAULT_ROTATIONS, metavar="N", help="tried by --heading search (%(default)s)"
    )
    parser.add_argument(
        "--near",
        type=_geo_point,
        metavar="LAT,LON",
        help="match only tiles around this place; --near=LAT,LON in the south",
    )
    parser.add_argument("--within", type=float, metavar="M", help="radius around --near in metres")
    parser.add_argument(
        "--agreeing",
        type=int,
        metavar="N",
        help=f"accept a photo if so many (up to --top-k) matches lie within a tile of the best ({rule.agreeing})",
    )
    parser.add_argument(
        "--min-similarity",
        type=float,
        default=rule.min_similarity,
        metavar="S",
        help="and if the best similarity is at least this (%(default)s)",
    )
    parser.add_argument("--refine", action="store_true", help="average the matches around the best")


def _add_locate(commands_parser: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands_parser.add_parser(
        "locate",
        help="locate photos on a gallery",
        epilog=_LOCATE_WORDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle that made the gallery")
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="file made by dphr-infer index")
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="photos, or folders of photos")
    _add_search(parser)
    _add_device(parser)
    parser.add_argument("--format", choices=FORMATS, default="table", help="of the list of photos (%(default)s)")
    parser.add_argument("--out", default="-", metavar="FILE", help="write the list there; - prints it (%(default)s)")
    parser.add_argument("--truth", type=Path, metavar="CSV", help="columns photo,latitude_deg,longitude_deg[,corner…]")
    parser.add_argument("--summary", metavar="JSON", help="write the summary's numbers there; - prints them")
    parser.add_argument("--picture", type=Path, metavar="DIR", help="draw the map, and each photo beside its matches")
    parser.add_argument("--map", type=Path, metavar="MAP.tif", help="the gallery's map, for --picture")
    _add_signer(parser)


def _add_watch(commands_parser: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands_parser.add_parser("watch", help="locate frames as a folder, a film or a camera gives them")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle that made the gallery")
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="file made by dphr-infer index")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder that fills, a video file, a camera's URL (rtsp://, http://) or device (0, /dev/video0), or a "
        "GStreamer pipeline",
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="HZ",
        help="frames a second to take, by a schedule; without it all, and a film or the pictures that are there wait "
        "for their turn",
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=DEFAULT_QUEUE,
        metavar="N",
        help="frames that may wait; the oldest is dropped for a newer one (%(default)s)",
    )
    parser.add_argument("--idle", type=float, metavar="S", help="end a folder after so long without a new picture")
    parser.add_argument(
        "--stall",
        type=float,
        default=DEFAULT_STALL_S,
        metavar="S",
        help="open a camera again that is silent for so long; several frames long (%(default)s)",
    )
    parser.add_argument(
        "--reconnects",
        type=int,
        default=DEFAULT_RECONNECTS,
        metavar="N",
        help="give a camera up after so many attempts without a frame (%(default)s)",
    )
    _add_search(parser)
    _add_device(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="of the lines; geojson is a Feature a line (%(default)s)"
    )
    _add_signer(parser)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all five commands."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    commands_parser = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_index(commands_parser)
    _add_locate(commands_parser)
    _add_watch(commands_parser)
    inspect = commands_parser.add_parser("inspect", help="say what a bundle or a gallery holds")
    inspect.add_argument("path", type=Path, metavar="BUNDLE|GALLERY")
    doctor = commands_parser.add_parser("doctor", help="say what is installed, and run a bundle's self-test")
    doctor.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE")
    _add_signer(doctor)
    return parser


def _path(given: Path | None) -> Path | None:
    return None if given is None else path_of(given)


def _index(arguments: argparse.Namespace) -> None:
    commands.index(
        path_of(arguments.bundle),
        path_of(arguments.map),
        path_of(arguments.out),
        tile_m=arguments.tile_m,
        stride_m=arguments.stride_m,
        precision=arguments.precision,
        dtype=arguments.dtype,
        max_nodata=arguments.max_nodata,
        batch=arguments.batch,
        threads=arguments.threads or None,
        device=arguments.device,
        signer=_path(arguments.signer),
    )


def _accept_rule(arguments: argparse.Namespace) -> AcceptRule:
    # Without --agreeing the rule stays what it is: it is refused, not lowered, where --top-k is too small for it.
    agreeing = AcceptRule().agreeing if arguments.agreeing is None else arguments.agreeing
    return AcceptRule(agreeing, arguments.min_similarity)


def _search_options(arguments: argparse.Namespace) -> SearchOptions:
    return SearchOptions(
        bundle=path_of(arguments.bundle),
        gallery=path_of(arguments.gallery),
        top_k=arguments.top_k,
        heading=arguments.heading,
        rotations=arguments.rotations,
        prior=prior_of(arguments.near, arguments.within),
        accept=_accept_rule(arguments),
        refine=arguments.refine,
        precision=arguments.precision,
        threads=arguments.threads or None,
        device=arguments.device,
        signer=_path(arguments.signer),
    )


def _watch(arguments: argparse.Namespace) -> None:
    settings = SourceSettings(arguments.rate, arguments.idle, arguments.stall, arguments.reconnects)
    search = _search_options(arguments)
    run_watch(WatchRequest(search, arguments.source, settings, arguments.queue, arguments.format))


def _locate(arguments: argparse.Namespace) -> None:
    commands.locate(
        commands.LocateRequest(
            search=_search_options(arguments),
            photos=tuple(path_of(photo) for photo in arguments.photos),
            form=arguments.format,
            out=output_of(arguments.out),
            truth=_path(arguments.truth),
            summary=None if arguments.summary is None else output_of(arguments.summary),
            picture=_path(arguments.picture),
            map=_path(arguments.map),
        )
    )


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "index":
        _index(arguments)
    elif arguments.command == "locate":
        _locate(arguments)
    elif arguments.command == "watch":
        _watch(arguments)
    elif arguments.command == "inspect":
        commands.inspect(path_of(arguments.path))
    else:
        diagnose(_path(arguments.bundle), _path(arguments.signer))


def main(argv: Sequence[str] | None = None) -> int:
    """Run dphr-infer; see `terminal.run_command` for the exit code."""
    return run_command(PROGRAM, partial(_run, build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
