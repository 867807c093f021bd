"""A flight's photos located and given to the filter, one after the other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from town_site import DOWN, SIZE, save_photo

import dphr_infer as dphr
from dphr_infer.flight.run import fly

pytest.importorskip("cv2")

STEP_M = 14.0


@pytest.fixture(scope="module")
def frames(town_site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos to the east over the town of the map."""
    folder = tmp_path_factory.mktemp("frames")
    for number in range(6):
        view = dataclasses.replace(DOWN, yaw_deg=40.0 + 5 * number)
        image = town_site.pixels.photo(town_site.point(-45 + STEP_M * number, 10.0), view, *SIZE)
        save_photo(folder / f"{number}.jpg", image, view)
    return folder


def test_the_python_of_the_readme_flies(bundle, town_site, frames: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    page = (Path(__file__).parents[3] / "dphr_infer/README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "dphr.Flight" in block)
    assert len(code.splitlines()) <= 15
    paths = {
        "bundle": bundle.folder,
        "city.gallery": town_site.folder / "g",
        "city.mbtiles": town_site.folder / "map.pack",
    }
    for name, path in paths.items():
        assert f'"{name}"' in code
        code = code.replace(f'"{name}"', repr(str(path)))
    monkeypatch.chdir(tmp_path)
    moved = dphr.Odometry(STEP_M, 0.0, np.eye(2))
    photos = [(2.0 * number, frames / f"{number}.jpg", moved if number else None) for number in range(2)]
    exec(code, {"frames": photos})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("registered GeoPoint(latitude_deg=") for line in lines)
    assert (tmp_path / "flight.state").is_file()


def test_frames_that_are_doubled_late_or_minutes_apart_are_named_or_taken(bundle, town_site, frames: Path) -> None:
    times = {"0.jpg": 10.0, "1.jpg": 12.0, "2.jpg": 12.0, "3.jpg": 11.0, "4.jpg": 400.0, "5.jpg": -9_000.0}
    photos = [frames / name for name in times]
    refused: list[tuple[str, str]] = []
    with dphr.open(bundle, town_site.folder / "g", map=town_site.folder / "map.pack", threads=1) as localizer:
        flight = dphr.Flight(localizer.gallery)
        clock = {str(photo): time_s for photo, time_s in zip(photos, times.values(), strict=True)}
        taken = list(
            fly(
                *(localizer, flight, photos, lambda photo: clock[photo.source], lambda photo: None),
                lambda photo, error: refused.append((Path(photo.source).name, str(error))),
            )
        )
    assert [name for name, _ in refused] == ["2.jpg", "3.jpg"]
    assert "Two frames have the time 12.000 s" in refused[0][1] and "comes after the one of" in refused[1][1]
    assert [Path(frame.photo.source).name for frame in taken] == ["0.jpg", "1.jpg", "4.jpg", "5.jpg"]
    # A gap leads anywhere, and a clock that jumps starts anew: a verified photo is found again in either case.
    assert "unknown motion" in taken[2].step.note and "The clock jumped" in taken[3].step.note
    assert all(isinstance(frame.step.fix, dphr.Fix) for frame in taken)
