"""Pictures to judge a run by eye: each photo beside its matches, and the map with every estimate. Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dphr_infer.errors import printable
from dphr_infer.evaluate.drawing import (
    ACCEPTED,
    EMPTY,
    FAINT,
    INK,
    LINE,
    MARGIN,
    PAPER,
    REFUSED,
    RIGHT,
    WRONG,
    Position,
    draw_scale_bar,
    font,
    mark_truth,
    save,
)
from dphr_infer.evaluate.registered_row import registered_row
from dphr_infer.evaluate.scoring import LocatedPhoto
from dphr_infer.images.rotation import rotate_square
from dphr_infer.locate.settings import Heading
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import GeoPoint

TILE_SIDE_PX = 240
MAP_SIDE_PX = 1800

# More names than these would hide the map and each other.
_MAX_NAMES, _MAX_NAME_LENGTH = 25, 24


def _square(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).resize((TILE_SIDE_PX, TILE_SIDE_PX), Image.Resampling.LANCZOS)


def draw_matches(
    photo: LocatedPhoto, image: NDArray[np.uint8], raster: MapRaster, tile_m: float, heading: Heading, path: Path
) -> None:
    """One photo as taken, as matched, and its top tiles, best first; a tile that shows the place is framed green.

    Below them how it lies on the map: see `registered_row`.

    Args:
        image: the photo, uint8 (H, W, 3).
        raster: the map of the gallery.
        tile_m: side of the gallery's tiles.
        heading: as the localizer's; "as-is" matched the photo without turning it.
        path: the PNG.
    """
    taken = Image.fromarray(image)
    taken = taken.resize((round(TILE_SIDE_PX * taken.width / taken.height), TILE_SIDE_PX), Image.Resampling.LANCZOS)
    panels = [(taken, [printable(photo.path.name), "as taken"], PAPER)]
    if heading != "as-is":
        turned = _square(rotate_square(image, photo.estimate.rotation_deg, TILE_SIDE_PX))
        panels.append((turned, ["as matched", f"turned by {photo.estimate.rotation_deg:.0f}°"], PAPER))
    right = photo.shown_by(tile_m)
    for i, place in enumerate(photo.estimate.places):
        tile = _square(raster.read_tile(raster.spot_at(place.point, tile_m)).image)
        note = f"{photo.place_errors_m[i]:.0f} m from the truth" if photo.truth else "truth unknown"
        frame = FAINT if not right else RIGHT if right[i] else WRONG
        panels.append((tile, [f"{i + 1}.  similarity {place.similarity:.3f}", note], frame))
    row = registered_row(photo.estimate, image, raster, tile_m)
    width = max(row.width, MARGIN + sum(panel.width + MARGIN for panel, _, _ in panels))
    height = TILE_SIDE_PX + 2 * MARGIN + 3 * LINE + 8
    canvas = Image.new("RGB", (width, height + row.height), PAPER)
    canvas.paste(row, (0, height))
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 4), _headline(photo), INK, font())
    left, top = MARGIN, MARGIN + LINE + 2
    for panel, captions, frame in panels:
        canvas.paste(panel, (left, top))
        if frame != PAPER:
            draw.rectangle((left - 4, top - 4, left + panel.width + 3, top + panel.height + 3), outline=frame, width=4)
        for line, caption in enumerate(captions):
            position = (left, top + TILE_SIDE_PX + 8 + line * LINE)
            draw.text(position, caption, frame if line == 1 and frame in (RIGHT, WRONG) else INK, font())
        left += panel.width + MARGIN
    save(canvas, path)


def _headline(photo: LocatedPhoto) -> str:
    estimate = photo.estimate
    verdict = estimate.verdict if estimate.accepted else f"none: {estimate.reason}"
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
    canvas = Image.new("RGB", (left + width + right, top + height + bottom + 2 * MARGIN + 2 * LINE), PAPER)
    canvas.paste(EMPTY, (0, 0, canvas.width, top + height + bottom))
    canvas.paste(Image.fromarray(overview).resize((width, height), Image.Resampling.BICUBIC), (left, top))
    draw = ImageDraw.Draw(canvas)
    estimates = [_to_px(raster, photo.estimate.point, scale) for photo in photos]
    shift = np.array([left, top])
    known = [i for i, photo in enumerate(photos) if photo.truth is not None]
    for i, truth in zip(known, truths, strict=True):
        ends = [tuple(truth + shift), tuple(estimates[i] + shift)]
        draw.line(ends, INK, 4)
        draw.line(ends, _colour(photos[i]), 2)
    for truth in truths:
        mark_truth(draw, truth + shift)
    for photo, estimate in zip(photos, estimates, strict=True):
        _mark_estimate(draw, estimate + shift, _colour(photo))
    if len(photos) <= _MAX_NAMES:
        _draw_names(draw, photos, [estimate + shift for estimate in estimates])
    middle = np.array([raster.width_px / 2]), np.array([raster.height_px / 2])
    px_per_m = scale / float(raster.metres_per_px(*middle)[0, 0])
    legend_top = top + height + bottom
    draw_scale_bar(draw, canvas.width, legend_top, px_per_m)
    _draw_legend(draw, legend_top + MARGIN, photos)
    save(canvas, path)


def _to_px(raster: MapRaster, point: GeoPoint, scale: float) -> Position:
    return np.array(raster.to_px(point)) * scale


def _margins(points: Sequence[Position], width: int, height: int) -> tuple[int, int, int, int]:
    """Room left, above, right and below a picture so that points beyond it can be drawn."""
    if not points:
        return 0, 0, 0, 0
    low, high = np.min(points, axis=0) - 2 * MARGIN, np.max(points, axis=0) + 2 * MARGIN
    wanted = (-low[0], -low[1], high[0] - width, high[1] - height)
    left, top, right, bottom = (int(min(max(room, 0), max(width, height) / 4)) for room in wanted)
    return left, top, right, bottom


def _colour(photo: LocatedPhoto) -> tuple[int, int, int]:
    return ACCEPTED if photo.estimate.accepted else REFUSED


def _mark_estimate(draw: ImageDraw.ImageDraw, at: Position, colour: tuple[int, int, int]) -> None:
    x, y = at
    draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=colour, outline=PAPER, width=2)


def _draw_names(draw: ImageDraw.ImageDraw, photos: Sequence[LocatedPhoto], at: Sequence[Position]) -> None:
    """Write the photos' names beside their estimates; those of one place stand below each other."""
    names: dict[tuple[int, int], list[str]] = {}
    for photo, (x, y) in zip(photos, at, strict=True):
        names.setdefault((round(x), round(y)), []).append(printable(photo.path.stem)[:_MAX_NAME_LENGTH])
    for (x, y), found in names.items():
        draw.text((x + 11, y), "\n".join(found), INK, font(12), anchor="lm", stroke_width=2, stroke_fill=PAPER)


def _draw_legend(draw: ImageDraw.ImageDraw, top: int, photos: Sequence[LocatedPhoto]) -> None:
    accepted = sum(photo.estimate.accepted for photo in photos)
    known = sum(photo.truth is not None for photo in photos)
    x, y = float(2 * MARGIN), top + LINE / 2
    for text, colour in (
        (f"estimate, accepted ({accepted})", ACCEPTED),
        (f"estimate, not accepted ({len(photos) - accepted})", REFUSED),
        (f"truth ({known})", None),
    ):
        if colour is None:
            mark_truth(draw, np.array([x, y]))
        else:
            _mark_estimate(draw, np.array([x, y]), colour)
        draw.text((x + 16, y), text, INK, font(), anchor="lm")
        x += 48 + draw.textlength(text, font())
    draw.text((2 * MARGIN - 8, y + LINE), "A line joins each estimate to its truth.", FAINT, font(), anchor="lm")
