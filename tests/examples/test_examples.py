"""Every file of examples/ runs as a user would run it, on the samples or on data of a moment."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dphr_infer as dphr

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BUNDLE = ROOT / "samples/bundle"
BRIGHTON = ROOT / "samples/brighton_beach"
MAX_LINES = 40


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Brighton Beach by 49 tiles: enough for a few photos, made in a few seconds."""
    out = tmp_path_factory.mktemp("examples") / "brighton.gallery"
    dphr.index(BRIGHTON / "brighton_beach.tif", bundle=BUNDLE, out=out, tile_m=26, stride_m=10, max_nodata=0.5)
    return out


def run(name: str, *arguments: object, code: int = 0) -> str:
    """What examples/NAME prints; its exit code has to be `code`."""
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_here(name: str, *arguments: object) -> None:
    """The same in this process, which has loaded torch already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def locate(gallery: Path, folder: Path) -> None:
    photos = folder / "photos"
    photos.mkdir()
    for number in (29, 31):
        (photos / f"{number}.JPG").symlink_to(BRIGHTON / f"photos/DJI_00{number}.JPG")
    (photos / "broken.jpg").write_bytes(b"no picture")
    printed = run("locate.py", BUNDLE, gallery, photos, folder / "track.geojson")
    track = json.loads((folder / "track.geojson").read_text())
    assert [Path(each["properties"]["photo"]).name for each in track["features"]] == ["29.JPG", "31.JPG"]
    assert "broken.jpg" in printed and "29.JPG: 46.842" in printed
    assert "is not a bundle" in run("locate.py", folder, gallery, photos, folder / "none", code=1)


def own_map(gallery: Path, folder: Path) -> None:
    photo = BRIGHTON / "photos/DJI_0029.JPG"
    printed = run("own_map.py", BUNDLE, BRIGHTON / "brighton_beach.tif", folder / "own", 26, 10, photo)
    held = dphr.open_gallery(gallery)
    assert printed.startswith(f"{len(held)} tiles indexed, ")
    assert f"{held.latitude_deg.min():.6f}" in printed and f"<LocationEstimate {photo}: 46.842" in printed
    assert printed.count("similarity 0.") == 6  # of the estimate and of five matches


def camera(gallery: Path, folder: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    film = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (640, 480))
    frame = cv2.resize(cv2.imread(str(BRIGHTON / "photos/DJI_0029.JPG")), (640, 480))
    for number in range(3):
        film.write(np.roll(frame, 40 * number, axis=1))
    film.release()
    printed = run("camera.py", BUNDLE, gallery, folder / "film.avi").splitlines()
    starts = [line.split(":")[0] for line in printed]
    assert starts == [f"<LocationEstimate frame {number}" for number in range(3)]


def train_own_data(gallery: Path, folder: Path) -> None:
    numbers = np.random.default_rng(0)
    for place in range(6):
        for view, count in (("satellite", 1), ("drone", 2)):
            home = folder / "data/train" / view / f"{place:04}"
            home.mkdir(parents=True)
            for each in range(count):
                Image.fromarray(numbers.integers(0, 256, (128, 128, 3), np.uint8)).save(home / f"{each}.jpg")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_here("train_own_data.py", folder / "data", folder / "run", 2, 4, "random")
    assert "2 steps done" in printed.getvalue() and (folder / "run/last.safetensors").is_file()
    (folder / "data/train/drone/0000/0.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"0000/0\.jpg"):
        run_here("train_own_data.py", folder / "data", folder / "other", 2)


RUNS: dict[str, Callable[[Path, Path], None]] = {
    "locate.py": locate,
    "own_map.py": own_map,
    "camera.py": camera,
    "train_own_data.py": train_own_data,
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_runs(path: Path, gallery: Path, tmp_path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES, f"{path.name} has {len(lines)} lines"
    if path.name in RUNS:
        RUNS[path.name](gallery, tmp_path)
    else:
        run(path.name)


def test_no_example_is_missing() -> None:
    assert set(RUNS) <= {path.name for path in EXAMPLES}
