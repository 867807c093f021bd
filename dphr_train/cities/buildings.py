"""Buildings: few looks per district (hard negatives by design), footprints, and the draft they are built into."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dphr_train.cities.draw import ANYWHERE, BARREL, FLAT, GABLE, HIP, OPEN_GROUND, SAWTOOTH, draw_box, draw_building
from dphr_train.cities.draw import footprint_is_free as is_free
from dphr_train.cities.layout import DISTRICT_KIND, DISTRICT_KINDS, PARKING, ROOF, Rasters

Colour = tuple[float, float, float]
Rect = tuple[float, float, float, float]

ROOF_COLOURS = (
    (164, 98, 78), (142, 82, 66), (118, 80, 68), (96, 92, 92), (70, 72, 78), (134, 118, 100), (172, 124, 98),
)  # fmt: skip
FLAT_COLOURS = (
    (178, 176, 170), (140, 138, 134), (104, 102, 102), (205, 203, 198),
    (128, 116, 104), (88, 96, 92), (142, 110, 96), (112, 124, 132),
)  # fmt: skip
WALL_COLOURS = (
    (196, 186, 168), (172, 120, 94), (206, 200, 190), (150, 140, 130),
    (186, 164, 128), (128, 96, 80), (160, 168, 174), (214, 190, 150),
)  # fmt: skip
CAR_COLOURS = (
    (225, 225, 225), (40, 42, 46), (120, 122, 126), (160, 30, 30),
    (40, 60, 120), (190, 190, 180), (70, 74, 78), (200, 170, 60),
)  # fmt: skip

HOLES, BANDS, CURTAIN, SHED, SMALL_HOLES = range(5)  # facades: windows, window bands, glass, corrugated, small windows
_FACADES = 4  # a look draws one of the first four

# Columns of the facade table, float64 (buildings + 1, 10); row 0 is no building. Angle in rad, wall colour 0..255, the
# spacing of windows and the share of it that is glass, style (one of the facades above), a seed for lit windows.
FACADE_COLUMNS = 10
(
    FACADE_ANGLE, FACADE_EAVE_M, FACADE_STOREY_M, FACADE_WINDOW_M, FACADE_WINDOW_SHARE,
    FACADE_STYLE, FACADE_RED, FACADE_GREEN, FACADE_BLUE, FACADE_SEED,
) = range(FACADE_COLUMNS)  # fmt: skip

LOOKS_PER_DISTRICT = 4
_STOREY_M = 3.1
_CHIMNEY_COLOUR = np.array((120.0, 80.0, 70.0))
_SOLAR: Colour = (38.0, 52.0, 86.0)
_SKYLIGHT: Colour = (150.0, 175.0, 190.0)
# What is tried when a footprint does not fit: (scale, shift in metres).
_TRIES_LARGE = ((1.0, 0.0), (1.0, 5.0), (1.0, -5.0), (0.82, 0.0), (0.66, 6.0), (0.66, -6.0))
_TRIES_SMALL = ((1.0, 0.0), (0.9, 2.0), (0.9, -2.0))
_LARGE_M = 16.0


@dataclass(frozen=True, slots=True)
class Look:
    """One of the few looks of a district kind: wall and roof colours by number, facade, storeys."""

    wall: int
    flat_roof: int
    pitched_roof: int
    facade: int
    storeys: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a building is raised. `eave_m` None takes the storeys; `clutter` is roof objects per 90 m2."""

    roof: int
    storeys: int
    look: Look
    slope: float = 0.6
    storey_m: float = _STOREY_M
    clutter: float = 0.0
    eave_m: float | None = None

    @property
    def eave(self) -> float:
        """Height of the eave above ground, in metres."""
        return self.eave_m if self.eave_m is not None else self.storeys * self.storey_m + 0.5


@dataclass(frozen=True, slots=True)
class Building:
    """A building that stands: object id, centre (m), height of its eaves (m) and kind of its district."""

    object_id: int
    x: float
    y: float
    eave_m: float
    district_kind: int


@dataclass(frozen=True, slots=True)
class CarSlot:
    """Where a car may stand: position (m), direction (rad), and how often it does (0..1)."""

    x: float
    y: float
    angle: float
    share: float


@dataclass(slots=True)
class Draft:
    """A city while it is being built; the only mutable value of the package."""

    rng: np.random.Generator
    rasters: Rasters
    districts: NDArray[np.float64]
    size_m: float
    noise_seed: int
    looks: dict[int, list[Look]]
    facades: list[tuple[float, ...]] = field(default_factory=lambda: [(0.0,) * FACADE_COLUMNS])
    buildings: list[Building] = field(default_factory=list)
    trees: list[tuple[float, ...]] = field(default_factory=list)
    slots: list[CarSlot] = field(default_factory=list)

    def box(
        self, x: float, y: float, angle: float, half: tuple[float, float], colour: Colour, material: int, where: int,
        top_m: float = 0.0,
    ) -> None:  # fmt: skip
        """Draw a box that stands on the ground; see draw.draw_box."""
        tone = np.asarray(colour, np.float64)
        draw_box(self.rasters, x, y, angle, half[0], half[1], top_m, False, tone, material, where)

    def look(self, kind: int) -> Look:
        """One of the looks of a district kind."""
        return self.looks[kind][self.rng.integers(LOOKS_PER_DISTRICT)]


def draw_looks(rng: np.random.Generator) -> dict[int, list[Look]]:
    """Few looks per district kind, so that neighbours resemble each other."""

    def one() -> Look:
        storeys = int(rng.integers(4, 9))
        counts = (len(WALL_COLOURS), len(FLAT_COLOURS), len(ROOF_COLOURS), _FACADES)
        wall, flat_roof, pitched_roof, facade = (int(rng.integers(count)) for count in counts)
        return Look(wall, flat_roof, pitched_roof, facade, storeys)

    return {kind: [one() for _ in range(LOOKS_PER_DISTRICT)] for kind in range(DISTRICT_KINDS)}


def footprint(kind: str, width: float, depth: float, wing: float) -> list[Rect]:
    """Rectangles of a letter-shaped footprint (I L U O H T E), or R for a plain rectangle; `wing` is its thickness."""
    w, d, t = width / 2, depth / 2, wing
    left, right = (-w, -d, -w + t, d), (w - t, -d, w, d)
    near, far = (-w, -d, w, -d + t), (-w, d - t, w, d)
    return {
        "R": [(-w, -d, w, d)],
        "I": [(-w, -t / 2, w, t / 2)],
        "L": [far, left],
        "U": [far, left, right],
        "O": [far, near, left, right],
        "H": [left, right, (-w, -t / 2, w, t / 2)],
        "T": [near, (-t / 2, -d, t / 2, d)],
        "E": [left, near, far, (-w, -t / 2, w * 0.8, t / 2)],
    }[kind]


def add_building(draft: Draft, district: int, x: float, y: float, angle: float, rects: list[Rect], plan: Plan) -> bool:
    """Raise a building at (x, y), or slightly beside it or smaller where that is taken; False when nothing fits."""
    shape = np.asarray(rects, np.float64)
    large = shape.max() - shape.min() > _LARGE_M
    for scale, shift in _TRIES_LARGE if large else _TRIES_SMALL:
        near_x, near_y = x + shift * math.cos(angle * 3 + 1), y + shift * math.sin(angle * 3 + 1)
        if is_free(draft.rasters, near_x, near_y, angle, shape * scale, district):
            _raise(draft, district, near_x, near_y, angle, shape * scale, plan)
            return True
    return False


def _raise(
    draft: Draft, district: int, x: float, y: float, angle: float, rects: NDArray[np.float64], plan: Plan
) -> None:
    rng, number = draft.rng, len(draft.facades)
    flat = plan.roof in (FLAT, SAWTOOTH, BARREL)
    base = FLAT_COLOURS[plan.look.flat_roof] if flat else ROOF_COLOURS[plan.look.pitched_roof]
    roof_colour = np.asarray(base, np.float64) * rng.uniform(0.88, 1.1) + rng.uniform(-6, 6, 3)
    wall = np.asarray(WALL_COLOURS[plan.look.wall], np.float64) * rng.uniform(0.9, 1.08) + rng.uniform(-5, 5, 3)
    red, green, blue = np.clip(wall, 0, 255).tolist()
    noise_seed = draft.noise_seed + 5
    draw_building(draft.rasters, x, y, angle, rects, plan.roof, plan.eave, plan.slope, roof_colour, number, noise_seed)
    facade = (
        angle, plan.eave, plan.storey_m, rng.uniform(2.4, 4.2), rng.uniform(0.35, 0.65), plan.look.facade,
        red, green, blue, float(rng.integers(1 << 20)),
    )  # fmt: skip
    draft.facades.append(facade)
    kind = int(draft.districts[district, DISTRICT_KIND])
    draft.buildings.append(Building(number, x, y, plan.eave, kind))
    for rect in rects.tolist():
        if plan.roof == FLAT and plan.clutter:
            _clutter(draft, x, y, angle, rect, plan)
        elif plan.roof in (GABLE, HIP) and rng.random() < 0.6:
            _chimney(draft, x, y, angle, rect)


def _clutter(draft: Draft, x: float, y: float, angle: float, rect: list[float], plan: Plan) -> None:
    """Solar panels, skylights and plant rooms on a flat roof."""
    rng, (u0, v0, u1, v1) = draft.rng, rect
    cos, sin = math.cos(angle), math.sin(angle)
    for _ in range(int(plan.clutter * (u1 - u0) * (v1 - v0) / 90) + 1):
        half_u, half_v = rng.uniform(0.7, 2.6), rng.uniform(0.7, 2.2)
        if u1 - u0 < 2 * half_u + 3 or v1 - v0 < 2 * half_v + 3:
            continue
        u, v = rng.uniform(u0 + half_u + 1.2, u1 - half_u - 1.2), rng.uniform(v0 + half_v + 1.2, v1 - half_v - 1.2)
        which, grey = rng.random(), rng.uniform(110, 215)
        colour, rise = (grey, grey, grey - 4), rng.uniform(1, 3.2)
        if which < 0.2:
            colour, rise, half_u, half_v = _SOLAR, 0.5, half_u * 2, half_v * 1.2
        elif which < 0.35:
            colour, rise = _SKYLIGHT, 0.4
        place_x, place_y = x + u * cos - v * sin, y + u * sin + v * cos
        draft.box(place_x, place_y, angle, (half_u, half_v), colour, ANYWHERE, ROOF, plan.eave + rise)


def _chimney(draft: Draft, x: float, y: float, angle: float, rect: list[float]) -> None:
    rng, (u0, v0, u1, v1) = draft.rng, rect
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = rng.uniform(u0 + 1, u1 - 1), rng.uniform(v0 + 1, v1 - 1)
    place_x, place_y = x + u * cos - v * sin, y + u * sin + v * cos
    draw_box(draft.rasters, place_x, place_y, angle, 0.5, 0.5, 1.2, True, _CHIMNEY_COLOUR, ANYWHERE, ROOF)


def add_parking(draft: Draft, x: float, y: float, angle: float, half_u: float, half_v: float) -> None:
    """A car park with marked slots in rows."""
    draft.box(x, y, angle, (half_u, half_v), (96, 96, 98), PARKING, OPEN_GROUND)
    cos, sin = math.cos(angle), math.sin(angle)
    for v in np.arange(-half_v + 2.8, half_v - 1, 8.3).tolist():
        for u in np.arange(-half_u + 1.5, half_u - 1, 2.6).tolist():
            slot_x, slot_y = x + u * cos - v * sin, y + u * sin + v * cos
            line_x, line_y = slot_x + 1.3 * cos, slot_y + 1.3 * sin
            draft.box(line_x, line_y, angle, (0.2, 2.4), (180, 180, 178), PARKING, PARKING)
            draft.slots.append(CarSlot(slot_x, slot_y, angle + math.pi / 2, 0.62))


def varied(rng: np.random.Generator, look: Look) -> Look:
    """The look of a single house: own wall, sometimes an own roof, small windows."""
    roof = int(rng.integers(len(ROOF_COLOURS))) if rng.random() < 0.35 else look.pitched_roof
    return replace(look, pitched_roof=roof, wall=int(rng.integers(len(WALL_COLOURS))), facade=SMALL_HOLES)
