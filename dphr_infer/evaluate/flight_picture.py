"""A flight on its map: track, fixes with their protection circles, the truth, and where it was silent and why."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

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
    save,
)
from dphr_infer.flight.fix import Fix, NoFix
from dphr_infer.flight.run import FlightFrame
from dphr_infer.geo import east_north_m, offset
from dphr_infer.maps.view import MapPixels
from dphr_infer.types import GeoPoint

SIDE_PX = 1400
# What is drawn over the map is drawn this much larger and reduced, so that lines are smooth.
_FINER = 2
# Room around the flight, as a share of its extent, and the least extent.
_ROOM, _LEAST_M = 0.12, 100.0
# The map is drawn so much paler than it is.
_PALE = 0.35
_STRIP_PX = 26

_Colour = tuple[int, int, int]
COLOURS: dict[str, _Colour] = {
    "registered": ACCEPTED,
    "retrieved": RIGHT,
    "starting": FAINT,
    "no-motion": (150, 80, 200),
    "ambiguous": REFUSED,
    "no-match": (240, 200, 0),
    "off-map": WRONG,
}
"""Of a frame: by its fix's source, or by the reason why it has none."""


@dataclass(frozen=True, slots=True)
class FlownFrame:
    """A frame of a flight, and where it really was, if that is known."""

    frame: FlightFrame
    truth: GeoPoint | None

    @property
    def fix(self) -> Fix | None:
        """Its fix, if it has one."""
        return self.frame.step.fix if isinstance(self.frame.step.fix, Fix) else None

    @property
    def kind(self) -> str:
        """One of `COLOURS`."""
        fix = self.frame.step.fix
        return fix.reason if isinstance(fix, NoFix) else fix.source

    @property
    def place(self) -> GeoPoint | None:
        """On the track, or where there is none at its fix; None where neither is."""
        track, fix = self.frame.step.track, self.fix
        return track.point if track is not None else None if fix is None else fix.point


def draw_flight(flown: Sequence[FlownFrame], pixels: MapPixels, whole: Sequence[GeoPoint], path: Path) -> None:
    """A flight on its map, with a strip of its frames in time below.

    Args:
        flown: at least one frame, in time.
        pixels: the map, entered.
        whole: what is shown of the map where no frame has a place, nor a known truth.
        path: the PNG.
    """
    fixes = [one.fix.point for one in flown if one.fix is not None]
    points = [point for one in flown for point in (one.place, one.truth) if point is not None] + fixes or list(whole)
    chart = _chart_of(points)
    view = pixels.view(chart.centre, chart.width_px, chart.height_px, chart.gsd_m)
    ground = Image.fromarray(np.where(view.covered[..., None], view.image, np.array(EMPTY, np.uint8)))
    ground = Image.blend(ground, Image.new("RGB", ground.size, PAPER), _PALE)
    ground = ground.resize((_FINER * ground.width, _FINER * ground.height), Image.Resampling.BILINEAR)
    over = ImageDraw.Draw(ground, "RGBA")
    _draw_paths(over, flown, chart)
    _draw_frames(over, flown, chart)
    legend_px = 5 * LINE + _STRIP_PX + 3 * MARGIN
    canvas = Image.new("RGB", (max(chart.width_px, 760), chart.height_px + legend_px), PAPER)
    canvas.paste(ground.resize((chart.width_px, chart.height_px), Image.Resampling.LANCZOS), (0, 0))
    draw = ImageDraw.Draw(canvas)
    draw_scale_bar(draw, chart.width_px, chart.height_px, 1 / chart.gsd_m)
    top = chart.height_px + MARGIN
    _draw_strip(draw, flown, canvas.width, top)
    _draw_legend(draw, flown, canvas.width, top + _STRIP_PX + LINE + MARGIN)
    save(canvas, path)


@dataclass(frozen=True, slots=True)
class _Chart:
    """The square metres that are drawn: its middle, its size and its scale."""

    centre: GeoPoint
    width_px: int
    height_px: int
    gsd_m: float

    def at(self, point: GeoPoint) -> tuple[float, float]:
        """The pixel of the finer drawing."""
        (east,), (north,) = east_north_m(self.centre, np.array([point.latitude_deg]), np.array([point.longitude_deg]))
        return (
            _FINER * (self.width_px / 2 + float(east) / self.gsd_m),
            _FINER * (self.height_px / 2 - float(north) / self.gsd_m),
        )


def _chart_of(points: Sequence[GeoPoint]) -> _Chart:
    degrees = np.array([(point.latitude_deg, point.longitude_deg) for point in points])
    places: NDArray[np.float64] = np.stack(east_north_m(points[0], degrees[:, 0], degrees[:, 1]), axis=1)
    low, high = places.min(axis=0), places.max(axis=0)
    extent = np.maximum(high - low + 2 * _ROOM * max(high - low), _LEAST_M)
    gsd_m = float(extent.max()) / SIDE_PX
    # Long and thin is hard to read: no side is less than a third of the other.
    width_px, height_px = (max(SIDE_PX // 3, math.ceil(side / gsd_m)) for side in extent)
    return _Chart(offset(points[0], *((low + high) / 2)), width_px, height_px, gsd_m)


def _draw_paths(draw: ImageDraw.ImageDraw, flown: Sequence[FlownFrame], chart: _Chart) -> None:
    """The truth below; the track over it, dashed in a colour of silence where one of two frames has no fix."""
    truth = [chart.at(one.truth) for one in flown if one.truth is not None]
    if len(truth) > 1:
        draw.line(truth, INK, 7 * _FINER, joint="curve")
        draw.line(truth, PAPER, 4 * _FINER, joint="curve")
    placed = [(number, one, one.place) for number, one in enumerate(flown)]
    known = [(number, one, chart.at(place)) for number, one, place in placed if place is not None]
    for (first, one, start), (second, other, end) in itertools.pairwise(known):
        silent = next((frame for frame in (*flown[first + 1 : second], one, other) if frame.fix is None), None)
        if silent is None:
            draw.line([start, end], INK, 3 * _FINER)
        else:
            _dashed(draw, start, end, COLOURS[silent.kind])


def _dashed(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], colour: _Colour) -> None:
    length, dash = math.dist(start, end), 9.0 * _FINER
    way: Position = np.subtract(end, start) / max(length, 1e-9)
    for begin in np.arange(0.0, length, 2 * dash):
        ends = [tuple(start + way * begin), tuple(start + way * min(begin + dash, length))]
        draw.line(ends, INK, 5 * _FINER)
        draw.line(ends, colour, 3 * _FINER)


def _draw_frames(draw: ImageDraw.ImageDraw, flown: Sequence[FlownFrame], chart: _Chart) -> None:
    """Protection circles, then a dot per fix, and per silent frame a ring on the track or a square at its truth."""
    for one in flown:
        if one.fix is not None and math.isfinite(one.fix.protection_m):
            _circle(draw, chart.at(one.fix.point), one.fix.protection_m / chart.gsd_m * _FINER, COLOURS[one.kind])
    for one in flown:
        colour, place = COLOURS[one.kind], one.place
        if one.fix is not None:
            x, y = chart.at(one.fix.point)
            draw.ellipse(_box(x, y, 6), fill=colour, outline=PAPER, width=_FINER)
        elif one.truth is not None:
            x, y = chart.at(one.truth)
            draw.rectangle(_box(x, y, 6), fill=colour, outline=INK, width=_FINER)
        if one.fix is None and place is not None:
            x, y = chart.at(place)
            draw.ellipse(_box(x, y, 6), outline=INK, width=4 * _FINER)
            draw.ellipse(_box(x, y, 5), outline=colour, width=2 * _FINER)


def _circle(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius_px: float, colour: _Colour) -> None:
    (x, y), reach = at, radius_px / _FINER
    draw.ellipse(_box(x, y, reach), fill=(*colour, 18), outline=(*colour, 200), width=2 * _FINER)


def _box(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    reach = radius * _FINER
    return x - reach, y - reach, x + reach, y + reach


def _draw_strip(draw: ImageDraw.ImageDraw, flown: Sequence[FlownFrame], width: int, top: int) -> None:
    """The frames in time, each a cell in its colour, and from when to when."""
    left, right = MARGIN, width - MARGIN
    edges = np.linspace(left, right, len(flown) + 1)
    for one, start, end in zip(flown, edges[:-1], edges[1:], strict=True):
        apart = 1 if end - start >= 6 else 0
        draw.rectangle((start, top, end - 1 - apart, top + _STRIP_PX), fill=COLOURS[one.kind])
    first, last = flown[0].frame.step.time_s, flown[-1].frame.step.time_s
    below = top + _STRIP_PX + 4
    draw.text((left, below), "first frame", FAINT, font())
    draw.text((right, below), f"last frame, {last - first:.0f} s later", FAINT, font(), anchor="ra")


def _draw_legend(draw: ImageDraw.ImageDraw, flown: Sequence[FlownFrame], width: int, top: int) -> None:
    counts = Counter(one.kind for one in flown)
    fixes = sum(one.fix is not None for one in flown)
    x, y = float(MARGIN), float(top)
    words = {"registered": "fix, registered", "retrieved": "fix, retrieved"}
    for kind in (kind for kind in COLOURS if counts[kind]):
        text = f"{words.get(kind, f'silent: {kind}')} ({counts[kind]})"
        if x + 60 + draw.textlength(text, font()) > width:
            x, y = float(MARGIN), y + LINE
        shape = draw.ellipse if kind in words else draw.rectangle
        shape((x, y + 2, x + 14, y + 16), fill=COLOURS[kind], outline=INK)
        draw.text((x + 22, y + 9), text, INK, font(), anchor="lm")
        x += 50 + draw.textlength(text, font())
    beyond = sum(one.fix is not None and math.isinf(one.fix.protection_m) for one in flown)
    known = sum(one.truth is not None for one in flown)
    notes = [
        f"{fixes} of {len(flown)} frames have a fix. A circle holds 95 % of all probability"
        + (f"; {beyond} fixes have none." if beyond else "."),
        "Line: the track; dashed where it was silent, a ring there. "
        + (f"White line: the truth of {known} frames; a square where it was silent." if known else "Truth unknown."),
    ]
    for number, note in enumerate(notes):
        draw.text((MARGIN, y + (number + 1.3) * LINE), note, FAINT, font())
