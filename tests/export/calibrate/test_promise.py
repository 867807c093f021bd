from __future__ import annotations

import dataclasses

import pytest

from dphr_infer.errors import ExportError
from export.calibrate import promise as promise_module
from export.calibrate.bounds import upper_bound
from export.calibrate.flights import Frame
from export.calibrate.promise import calibrate_promise, count_units


def frame(unit: int, mass: float, error_m: float | None, kind: str = "right") -> Frame:
    return Frame(kind, (0, unit), mass, error_m, None, None, None)  # type: ignore[arg-type]


def flown(right: list[Frame]) -> list[Frame]:
    """Frames over their own maps, and silent ones of the other kinds."""
    silent = [Frame(kind, (0, 0), 0.1, None, None, None, None) for kind in ("half", "wrong", "kidnapped")]  # type: ignore[arg-type]
    return [*right, *silent]


def each_unit(mass: float, error_m: float, nees: float, track_nees: float) -> list[Frame]:
    """A frame for each of 8 stretches of each of three sites, its tile first."""
    return [
        Frame("right", (number, unit), mass, error_m, nees, track_nees, 0) for number in range(3) for unit in range(8)
    ]


def test_a_stretch_counts_once_and_is_wrong_if_any_of_its_fixes_is() -> None:
    frames = [
        frame(0, 0.99, 5.0),
        frame(0, 0.99, 7.0, "half"),
        frame(1, 0.99, 59.0),
        frame(1, 0.99, 61.0, "wrong"),  # farther than a tile side
        frame(2, 0.90, 200.0),  # below the threshold
        frame(3, 0.999, None),  # the filter is sure, the frame has no match near
    ]
    assert count_units(frames, 0.95, 60.0) == (1, 2)
    assert count_units(frames, 0.85, 60.0) == (2, 3)
    assert count_units(frames, 0.995, 60.0) == (0, 0)


def test_a_promise_states_what_was_counted_with_the_law_of_the_others(sites) -> None:
    found = calibrate_promise(sites, 0.2, 0)
    assert found.alpha == 0.2 and found.n >= 14  # (1 - 0.2)^14 < 5 %
    assert found.bound == pytest.approx(upper_bound(found.wrong, found.n), rel=1e-3)
    assert found.bound <= 0.2 and found.fix_mass in promise_module.FIX_MASSES
    assert set(found.availability) == {"right", "half", "wrong", "kidnapped"}
    assert found.availability["right"] > found.availability["wrong"]
    assert found.anees_low < 2.0 < found.anees_high
    assert len(found.confirmed_ranks) == 5 and 1 <= sum(found.confirmed_ranks) <= 45


def test_the_factors_bring_nees_to_2(sites, monkeypatch: pytest.MonkeyPatch) -> None:
    made = flown(each_unit(0.999, 10.0, 1.0, 4.0))  # fixes are half, tracks twice as far off in squares as they say
    monkeypatch.setattr(promise_module, "fly_all", lambda *_: made)
    found = calibrate_promise(sites, 0.4, 0)
    assert (found.fix_factor, found.track_factor) == (pytest.approx(0.35 / 2), pytest.approx(0.5 * 2))
    assert (found.n, found.wrong, found.anees) == (24, 0, 1.0)
    assert found.fix_mass == 0.8  # every threshold holds: the loosest is taken
    # χ² of 48 degrees over 24: 30.75 and 69.02.
    assert (found.anees_low, found.anees_high) == (pytest.approx(1.281, abs=2e-3), pytest.approx(2.876, abs=2e-3))
    assert found.confirmed_ranks == (24, 0, 0, 0, 0)


def test_where_a_wrong_fix_is_too_likely_at_any_threshold_nothing_is_promised(sites, monkeypatch) -> None:
    good = each_unit(0.99995, 10.0, 2.0, 2.0)
    made = flown([dataclasses.replace(one, error_m=99.0 if one.unit[1] == 0 else 10.0) for one in good])
    monkeypatch.setattr(promise_module, "fly_all", lambda *_: made)
    found = calibrate_promise(sites, 0.2, 0)
    assert (found.fix_mass, found.wrong, found.n) == (None, 3, 24)


def test_too_few_flights_are_refused_with_the_number_it_takes(sites, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match=r"have 45 stretches .* alpha 0\.05 takes at least 59 with a fix and none"):
        calibrate_promise(sites, 0.05, 0)
    with pytest.raises(ExportError, match="1 map was given; at least 2"):
        calibrate_promise(sites[:1], 0.4, 0)
    few = flown([one for one in each_unit(0.99, 1.0, 2.0, 2.0) if one.unit[1] < 2][:5])
    monkeypatch.setattr(promise_module, "fly_all", lambda *_: few)
    with pytest.raises(ExportError, match=r"Only 5 of 45 stretches .* alpha 0\.4 takes at least 6 with none wrong"):
        calibrate_promise(sites, 0.4, 0)


def test_flights_without_a_fix_are_refused(sites, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [Frame("right", (0, unit), 0.5, None, None, None, None) for unit in range(8)]
    monkeypatch.setattr(promise_module, "fly_all", lambda *_: silent)
    with pytest.raises(ExportError, match="No flight over its own map had a fix"):
        calibrate_promise(sites, 0.4, 0)


def test_availability_is_of_frames(sites, monkeypatch: pytest.MonkeyPatch) -> None:
    right = each_unit(0.9999, 5.0, 2.0, 2.0)
    half = [dataclasses.replace(one, kind="half", error_m=5.0 if one.unit[1] < 2 else None) for one in right]
    frames = [*right, *half, *flown([])[1:]]
    monkeypatch.setattr(promise_module, "fly_all", lambda *_: frames)
    found = calibrate_promise(sites, 0.4, 0)
    assert found.availability == {"right": 1.0, "half": 0.25, "wrong": 0.0, "kidnapped": 0.0}
