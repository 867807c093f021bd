"""Pictures to judge a run by eye: each photo beside its matches, and the map with every estimate. Pillow only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dphr_infer.errors import printable
from dphr_infer.evaluate.scoring import LocatedPhoto
from dphr_infer.files.atomic import atomic_file
from dphr_infer.images.rotation import rotate_square
from dphr_infer.locate.settings import Heading
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import GeoPoint

TILE_SIDE_PX = 240
MAP_SIDE_PX = 1800

_MARGIN = 12
_TEXT_PX = 15
_LINE = 20
# More names than these would hide the map and each other.
_MAX_NAMES, _MAX_NAME_LENGTH = 25, 24
_INK, _PAPER, _FAINT, _EMPTY = (25, 25, 25), (255, 255, 255), (110, 110, 110), (230, 230, 230)
# Told apart by people with any colour vision, and on green and grey ground.
_RIGHT, _WRONG, _ACCEPTED, _REFUSED, _TRUTH = (0, 158, 90), (200, 60, 40), (0, 114, 220), (230, 120, 0), (255, 255, 255)

Position = NDArray[np.float64]
"""float64 (2,), x to the right and y down, in pixels of a picture."""


def _font(size_px: float = _TEXT_PX) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size_px)


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG")


def _square(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).resize((TILE_SIDE_PX, TILE_SIDE_PX), Image.Resampling.LANCZOS)


def draw_matches(
    photo: LocatedPhoto, image: NDArray[np.uint8], raster: MapRaster, tile_m: float, heading: Heading, path: Path
) -> None:
    """One photo as taken, as matched, and its top tiles, best first; a tile that shows the place is framed green.

    Args:
        image: the photo, uint8 (H, W, 3).
        raster: the map of the gallery.
        tile_m: side of the gallery's tiles.
        heading: as the localizer's; "as-is" matched the photo without turning it.
        path: the PNG.
    """
    taken = Image.fromarray(image)
    taken = taken.resize((round(TILE_SIDE_PX * taken.width / taken.height), TILE_SIDE_PX), Image.Resampling.LANCZOS)
    panels = [(taken, [printable(photo.path.name), "as taken"], _PAPER)]
    if heading != "as-is":
        turned = _square(rotate_square(image, photo.estimate.rotation_deg, TILE_SIDE_PX))
        panels.append((turned, ["as matched", f"turned by {photo.estimate.rotation_deg:.0f}°"], _PAPER))
    right = photo.shown_by(tile_m)
    for i, place in enumerate(photo.estimate.places):
        tile = _square(raster.read_tile(raster.spot_at(place.point, tile_m)).image)
        note = f"{photo.place_errors_m[i]:.0f} m from the truth" if photo.truth else "truth unknown"
        frame = _FAINT if not right else _RIGHT if right[i] else _WRONG
        panels.append((tile, [f"{i + 1}.  similarity {place.similarity:.3f}", note], frame))
    width = _MARGIN + sum(panel.width + _MARGIN for panel, _, _ in panels)
    canvas = Image.new("RGB", (width, TILE_SIDE_PX + 2 * _MARGIN + 3 * _LINE + 8), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN - 4), _headline(photo), _INK, _font())
    left, top = _MARGIN, _MARGIN + _LINE + 2
    for panel, captions, frame in panels:
        canvas.paste(panel, (left, top))
        if frame != _PAPER:
            draw.rectangle((left - 4, top - 4, left + panel.width + 3, top + panel.height + 3), outline=frame, width=4)
        for line, caption in enumerate(captions):
            position = (left, top + TILE_SIDE_PX + 8 + line * _LINE)
            draw.text(position, caption, frame if line == 1 and frame in (_RIGHT, _WRONG) else _INK, _font())
        left += panel.width + _MARGIN
    _save(canvas, path)


def _headline(photo: LocatedPhoto) -> str:
    estimate = photo.estimate
    verdict = "accepted" if estimate.accepted else "not accepted"
    error = "" if photo.error_m is None else f",  error {photo.error_m:.1f} m"
    return f"{estimate.point.latitude_deg:.6f}, {estimate.point.longitude_deg:.6f},  {verdict}{error}"


def draw_map(photos: Sequence[LocatedPhoto], raster: MapRaster, path: Path) -> None:
    """The whole map with each estimate, joined to its truth by a line and named where they are few, and a scale bar.

    What lies beyond the map's edge is drawn on a margin of at most a quarter of the map's longer side.

    Args:
        photos: with estimates; those without truth get no line.
        raster: the map of the gallery.
        path: the PNG.
    """
    overview, factor = raster.read_overview(MAP_SIDE_PX)
    enlarge = max(1.0, 900 / max(overview.shape[:2]))  # a small map becomes large enough to read
    scale = factor * enlarge
    width, height = round(overview.shape[1] * enlarge), round(overview.shape[0] * enlarge)
    truths = [_to_px(raster, photo.truth.point, scale) for photo in photos if photo.truth is not None]
    left, top, right, bottom = _margins(truths, width, height)
    canvas = Image.new("RGB", (left + width + right, top + height + bottom + 2 * _MARGIN + 2 * _LINE), _PAPER)
    canvas.paste(_EMPTY, (0, 0, canvas.width, top + height + bottom))
    canvas.paste(Image.fromarray(overview).resize((width, height), Image.Resampling.BICUBIC), (left, top))
    draw = ImageDraw.Draw(canvas)
    estimates = [_to_px(raster, photo.estimate.point, scale) for photo in photos]
    shift = np.array([left, top])
    known = [i for i, photo in enumerate(photos) if photo.truth is not None]
    for i, truth in zip(known, truths, strict=True):
        ends = [tuple(truth + shift), tuple(estimates[i] + shift)]
        draw.line(ends, _INK, 4)
        draw.line(ends, _colour(photos[i]), 2)
    for truth in truths:
        _mark_truth(draw, truth + shift)
    for photo, estimate in zip(photos, estimates, strict=True):
        _mark_estimate(draw, estimate + shift, _colour(photo))
    if len(photos) <= _MAX_NAMES:
        _draw_names(draw, photos, [estimate + shift for estimate in estimates])
    middle = np.array([raster.width_px / 2]), np.array([raster.height_px / 2])
    px_per_m = scale / float(raster.metres_per_px(*middle)[0, 0])
    legend_top = top + height + bottom
    _draw_scale_bar(draw, canvas.width, legend_top, px_per_m)
    _draw_legend(draw, legend_top + _MARGIN, photos)
    _save(canvas, path)


def _to_px(raster: MapRaster, point: GeoPoint, scale: float) -> Position:
    return np.array(raster.to_px(point)) * scale


def _margins(points: Sequence[Position], width: int, height: int) -> tuple[int, int, int, int]:
    """Room left, above, right and below a picture so that points beyond it can be drawn."""
    if not points:
        return 0, 0, 0, 0
    low, high = np.min(points, axis=0) - 2 * _MARGIN, np.max(points, axis=0) + 2 * _MARGIN
    wanted = (-low[0], -low[1], high[0] - width, high[1] - height)
    left, top, right, bottom = (int(min(max(room, 0), max(width, height) / 4)) for room in wanted)
    return left, top, right, bottom


def _colour(photo: LocatedPhoto) -> tuple[int, int, int]:
    return _ACCEPTED if photo.estimate.accepted else _REFUSED


def _mark_estimate(draw: ImageDraw.ImageDraw, at: Position, colour: tuple[int, int, int]) -> None:
    x, y = at
    draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=colour, outline=_PAPER, width=2)


def _mark_truth(draw: ImageDraw.ImageDraw, at: Position) -> None:
    x, y = at
    for colour, reach, width in ((_INK, 9, 6), (_TRUTH, 8, 3)):
        draw.line((x - reach, y - reach, x + reach, y + reach), colour, width)
        draw.line((x - reach, y + reach, x + reach, y - reach), colour, width)


def _draw_names(draw: ImageDraw.ImageDraw, photos: Sequence[LocatedPhoto], at: Sequence[Position]) -> None:
    """Write the photos' names beside their estimates; those of one place stand below each other."""
    names: dict[tuple[int, int], list[str]] = {}
    for photo, (x, y) in zip(photos, at, strict=True):
        names.setdefault((round(x), round(y)), []).append(printable(photo.path.stem)[:_MAX_NAME_LENGTH])
    for (x, y), found in names.items():
        draw.text((x + 11, y), "\n".join(found), _INK, _font(12), anchor="lm", stroke_width=2, stroke_fill=_PAPER)


def round_length_m(limit_m: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50, … metres (or 0.1, 0.2, …) that is not above a limit."""
    power = 10.0 ** math.floor(math.log10(limit_m))
    return max(step * power for step in (1, 2, 5) if step * power <= limit_m)


def _draw_scale_bar(draw: ImageDraw.ImageDraw, width: int, height: int, px_per_m: float) -> None:
    """A bar of a round length in the lower right corner, at most a fifth of the map's width."""
    length_m = round_length_m(width / 5 / px_per_m)
    right, bottom = width - 2 * _MARGIN, height - 2 * _MARGIN
    left = right - length_m * px_per_m
    draw.rectangle((left - 10, bottom - 2 * _LINE, right + 10, bottom + 10), fill=_PAPER)
    draw.rectangle((left, bottom - 6, right, bottom), fill=_INK)
    draw.text(((left + right) / 2, bottom - 10), f"{length_m:g} m", _INK, _font(), anchor="mb")


def _draw_legend(draw: ImageDraw.ImageDraw, top: int, photos: Sequence[LocatedPhoto]) -> None:
    accepted = sum(photo.estimate.accepted for photo in photos)
    known = sum(photo.truth is not None for photo in photos)
    x, y = float(2 * _MARGIN), top + _LINE / 2
    for text, colour in (
        (f"estimate, accepted ({accepted})", _ACCEPTED),
        (f"estimate, not accepted ({len(photos) - accepted})", _REFUSED),
        (f"truth ({known})", None),
    ):
        if colour is None:
            _mark_truth(draw, np.array([x, y]))
        else:
            _mark_estimate(draw, np.array([x, y]), colour)
        draw.text((x + 16, y), text, _INK, _font(), anchor="lm")
        x += 48 + draw.textlength(text, _font())
    draw.text((2 * _MARGIN - 8, y + _LINE), "A line joins each estimate to its truth.", _FAINT, _font(), anchor="lm")
