"""How a photo lies on the map: the photo, its ground from straight above, and the map there; the points they share."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dphr_infer.errors import ImageError
from dphr_infer.evaluate.drawing import EMPTY, FAINT, INK, LINE, MARGIN, PAPER, font
from dphr_infer.images.rectify import projection, rectify
from dphr_infer.maps.view import MapPixels
from dphr_infer.types import CameraView, GeoPoint, LocationEstimate, MatchedPoints

SIDE_PX = 480
# Pairs that are joined by a line, each in a colour of its own; of more none could be followed by eye.
_MOST_LINES = 16
_LEAST_TILES, _MOST_TILES = 1.0, 3.0
_Colour = tuple[int, int, int]


def registered_row(
    estimate: LocationEstimate, image: NDArray[np.uint8], pixels: MapPixels, tile_m: float
) -> Image.Image:
    """Three panels with captions, RGB: as taken, rectified, and the map around the estimated point at the same scale.

    Matched points are dots, some of them joined by lines. Where nothing was verified there are none, and the map is
    that of the best tile.

    Args:
        image: the photo, uint8 (H, W, 3).
        pixels: the map, entered.
        tile_m: side of the gallery's tiles.
    """
    attitude, matched = estimate.attitude, estimate.matched
    side_m = _side_m(matched, tile_m)
    taken = Image.fromarray(image)
    taken = taken.resize((round(SIDE_PX * taken.width / taken.height), SIDE_PX), Image.Resampling.LANCZOS)
    ground = None if attitude is None else _ground(image, attitude.view, side_m)
    chart = Image.fromarray(pixels.view(estimate.point, SIDE_PX, SIDE_PX, side_m / SIDE_PX).image)
    panels = [taken, ground or Image.new("RGB", (SIDE_PX, SIDE_PX), EMPTY), chart]
    lefts = [MARGIN, 2 * MARGIN + taken.width, 4 * MARGIN + taken.width + SIDE_PX]
    row = Image.new("RGB", (lefts[2] + SIDE_PX + MARGIN, SIDE_PX + 2 * LINE + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(row)
    for panel, left, caption in zip(panels, lefts, _captions(estimate, ground is not None, side_m), strict=True):
        row.paste(panel, (left, 0))
        for line, text in enumerate(caption):
            draw.text((left, SIDE_PX + 6 + line * LINE), _fitted(draw, text, panel.width), (INK, FAINT)[line], font())
    if matched is not None and attitude is not None:
        shown = _photo_px(matched, attitude.view, image.shape[1], image.shape[0]) * SIDE_PX / image.shape[0]
        spots = [shown, *(_map_px(points, side_m) for points in (matched.photo_m, matched.map_m))]
        _draw_points(draw, [spot + np.array([left, 0]) for spot, left in zip(spots, lefts, strict=True)])
    return row


def _side_m(matched: MatchedPoints | None, tile_m: float) -> float:
    """Of the ground that is shown: a tile and a half, or what holds the matched points."""
    reach_m = (
        0.75 * tile_m if matched is None else 1.1 * max(np.abs(matched.photo_m).max(), np.abs(matched.map_m).max())
    )
    return float(min(max(2 * reach_m, _LEAST_TILES * tile_m), _MOST_TILES * tile_m))


def _ground(image: NDArray[np.uint8], view: CameraView, side_m: float) -> Image.Image | None:
    try:
        return Image.fromarray(rectify(image, view, SIDE_PX, side_m / SIDE_PX).image)
    except ImageError:
        return None


def _captions(estimate: LocationEstimate, ground: bool, side_m: float) -> Sequence[tuple[str, str]]:
    attitude = estimate.attitude
    how = "as taken"
    if attitude is not None and attitude.known:
        view = attitude.view
        how = f"pitch {view.pitch_deg:.0f}°, yaw {view.yaw_deg:.0f}°, {view.height_m:.0f} m above the ground"
    above = "from straight above, north up" if attitude is not None and attitude.known else "taken as straight down"
    why = "" if attitude is None or attitude.known else f"attitude {attitude.reason}"
    if not ground:
        above, why = "cannot be rectified", why or "it shows nothing of the ground around its middle"
    count = "" if estimate.matched is None else f", {len(estimate.matched.map_m)} points agree"
    spot = "verified place" if estimate.verdict == "verified" else "best match"
    where = f"the map at the {spot}, {_text(estimate.point)}"
    return (
        ("the photo", how),
        (above, why or f"{side_m:.0f} m across"),
        (where, f"{estimate.verdict}{count}" if estimate.accepted else f"none: {estimate.reason}"),
    )


def _text(point: GeoPoint) -> str:
    return f"{point.latitude_deg:.5f}, {point.longitude_deg:.5f}"


def _fitted(draw: ImageDraw.ImageDraw, text: str, width_px: float) -> str:
    """The text, cut with an ellipsis where it is wider than its panel."""
    if draw.textlength(text, font()) <= width_px:
        return text
    while text and draw.textlength(f"{text}…", font()) > width_px:
        text = text[:-1]
    return f"{text}…"


def _photo_px(matched: MatchedPoints, view: CameraView, width_px: int, height_px: int) -> NDArray[np.float64]:
    east_north_1 = np.column_stack([matched.photo_m, np.ones(len(matched.photo_m))])
    seen = east_north_1 @ projection(view, width_px, height_px).T
    pixels: NDArray[np.float64] = seen[:, :2] / seen[:, 2:]
    return pixels


def _map_px(points_m: NDArray[np.float64], side_m: float) -> NDArray[np.float64]:
    pixels: NDArray[np.float64] = SIDE_PX / 2 + points_m * np.array([1, -1]) * SIDE_PX / side_m
    return pixels


def _draw_points(draw: ImageDraw.ImageDraw, spots: Sequence[NDArray[np.float64]]) -> None:
    """Each point on every panel; a few, from the top to the bottom, in a colour and joined from ground to map."""
    order = np.argsort(spots[2][:, 1])
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(_MOST_LINES, len(order))).round().astype(int))]
    for spot in spots:
        for at in spot:
            _dot(draw, at, 3, PAPER)
    for number, index in enumerate(chosen):
        colour = _bright(number / max(1, len(chosen)))
        ends = [tuple(spots[1][index]), tuple(spots[2][index])]
        draw.line(ends, INK, 3)
        draw.line(ends, colour, 2)
        for spot in spots:
            _dot(draw, spot[index], 6, colour)


def _bright(hue: float) -> _Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return math.floor(red * 255), math.floor(green * 255), math.floor(blue * 255)


def _dot(draw: ImageDraw.ImageDraw, at: NDArray[np.float64], radius: float, colour: _Colour) -> None:
    x, y = at
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=INK, width=1)
