import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from photo_files import xmp_option
from PIL import ExifTags, Image

from dphr_infer.cli.main import main
from dphr_infer.files.gallery import open_gallery
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import FORMATS

TILE_M = 50.0


@pytest.fixture(scope="module")
def site(bundle, texture, tmp_path_factory) -> Path:
    """A folder with map.tif, a gallery, and photos: three tiles of the map, with their truth."""
    import rasterio
    from rasterio.transform import Affine

    folder = tmp_path_factory.mktemp("site")
    profile = {"driver": "GTiff", "height": 300, "width": 400, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(folder / "map.tif", "w", transform=Affine(0.5, 0, 5e5, 0, -0.5, 5.2e6), **profile) as dataset:
        dataset.write(np.moveaxis(texture(300, 400, 5), 2, 0))
    command = ["index", bundle.folder, folder / "map.tif", "--tile-m", TILE_M, "--stride-m", 25, "--out", folder / "g"]
    assert main([str(word) for word in command]) == 0
    gallery = open_gallery(folder / "g")
    (folder / "photos").mkdir()
    with MapRaster(folder / "map.tif") as raster, (folder / "truth.csv").open("w", newline="") as file:
        truth = csv.writer(file)
        truth.writerow(["photo", "latitude_deg", "longitude_deg"])
        for row in (2, 15, 30):
            point = gallery.point(row)
            image = raster.read_tile(raster.spot_at(point, TILE_M)).image
            Image.fromarray(image).save(folder / f"photos/{row}.png")
            truth.writerow([f"{row}.png", point.latitude_deg, point.longitude_deg])
    return folder


@pytest.fixture
def locate(bundle, site):
    """A function that runs `dphr-infer locate` on the site's gallery."""
    return lambda *words: main(["locate", str(bundle.folder), str(site / "g"), *map(str, words)])


def test_locate_prints_a_line_for_each_photo_and_the_summary(site, locate, capsys) -> None:
    assert locate(site / "photos", "--truth", site / "truth.csv") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["photo", "15.png", "2.png", "30.png"]
    assert all("  0.0 m  not calibrated" in line for line in lines[1:4])
    assert lines[4] == "3 photos located; truth of 3 from the file, 0 from metadata, 0 unknown"
    assert lines[5] == "  best match: median error 0.0 m, 100% within 40 m"


def test_lists_summary_and_pictures_are_written_where_asked(site, locate, tmp_path: Path, capsys) -> None:
    pictures = ("--picture", tmp_path / "pictures", "--map", site / "map.tif", "--heading", "search", "--rotations", 4)
    outputs = ("--format", "csv", "--out", tmp_path / "list.csv", "--summary", tmp_path / "summary.json")
    assert locate(site / "photos", "--truth", site / "truth.csv", *outputs, *pictures) == 0
    rows = list(csv.DictReader((tmp_path / "list.csv").open()))
    assert [row["error_m"] for row in rows] == ["0.0", "0.0", "0.0"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["n_photos"], summary["share_within_40_m"], summary["recall_at_1"]) == (3, 1.0, None)
    drawn = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert drawn == ["15.png", "2.png", "30.png", "map.png"]
    with Image.open(tmp_path / "pictures/map.png") as picture:
        colours = {colour for _, colour in picture.getcolors(1 << 24)}
        assert picture.width >= 900
    assert (0, 114, 220) in colours  # an accepted estimate
    with Image.open(tmp_path / "pictures/2.png") as picture:
        assert (0, 158, 90) in {colour for _, colour in picture.getcolors(1 << 24)}  # a right tile


def test_a_list_for_programs_is_alone_on_stdout(site, locate, capsys) -> None:
    assert locate(site / "photos/2.png", "--format", "geojson") == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["features"]) == 1
    assert "1 photos located" in captured.err


def test_a_dash_is_standard_output_and_a_tilde_the_home_folder(
    site, locate, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert locate(site / "photos/2.png", "--format", "csv", "--out", "-", "--summary", "~/s.json") == 0
    assert capsys.readouterr().out.startswith("photo,latitude_deg")
    assert json.loads((tmp_path / "s.json").read_text())["n_photos"] == 1
    assert locate(site / "photos/2.png", "--out=~/list", "--summary", "-") == 0
    assert json.loads(capsys.readouterr().out)["n_photos"] == 1
    assert locate(site / "photos/2.png", "--summary", "-") == 2
    assert "would both go to standard output" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"s.json", "list"}


def test_the_prior_is_taken_from_near_and_within(site, locate, capsys) -> None:
    point = open_gallery(site / "g").point(30)
    near = f"--near={point.latitude_deg},{point.longitude_deg}"
    assert locate(site / "photos/30.png", near, "--within", 30, "--truth", site / "truth.csv") == 0
    assert "  0.0 m" in capsys.readouterr().out
    assert locate(site / "photos/30.png", "--near=47.5,9", "--within", 30) == 2
    error = capsys.readouterr().err
    assert "the nearest is" in error and "photos" not in error  # before any photo is read
    assert locate(site / "photos/30.png", near) == 2
    assert "--near and --within belong together" in capsys.readouterr().err
    assert locate(site / "photos/30.png", "--near", "here", "--within", 30) == 2
    assert "--near is 'here'; expected LAT,LON in degrees" in capsys.readouterr().err


def test_a_damaged_photo_among_others_is_named_and_the_others_go_on(site, locate, tmp_path: Path, capsys) -> None:
    good = (site / "photos/2.png").read_bytes()
    (tmp_path / "a.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "b.png").write_bytes(good)
    Image.new("RGB", (1, 1)).save(tmp_path / "c.png")
    assert locate(tmp_path) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].startswith("b.png")
    lines = [line for line in captured.err.splitlines() if not line.startswith("photos ")]
    assert len(lines) == 4
    assert "a.png is damaged or cut short" in lines[0]
    assert "c.png is 1x1 px" in lines[1]
    assert lines[2].startswith("1 of 1 photos were not rectified, the first b.png: attitude unknown")
    assert lines[3] == "dphr-infer: 2 of 3 photos could not be located; see above."


def huge(path: Path) -> Path:
    """A PNG whose head claims 20,000 x 10,000 px = 200 megapixels."""
    Image.new("L", (64, 64)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (lambda folder: folder / "none.jpg", "does not exist"),
        (lambda folder: huge(folder / "huge.png"), "above the limit of 120"),
        (lambda folder: folder, "holds no picture"),
    ],
)
def test_a_photo_that_cannot_be_taken_is_one_line_and_exit_code_2(
    locate, tmp_path: Path, photo, message, capsys
) -> None:
    import re

    assert locate(photo(tmp_path)) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and "Traceback" not in error


def test_north_without_yaw_names_the_photo(site, locate, capsys) -> None:
    assert locate(site / "photos/2.png", "--heading", "north") == 2
    assert '2.png: --heading "north" needs the photo\'s yaw' in capsys.readouterr().err


def test_truth_falls_back_on_the_photos_own_metadata(site, locate, tmp_path: Path, capsys) -> None:
    point = open_gallery(site / "g").point(2)
    exif = Image.Exif()
    exif[ExifTags.IFD.GPSInfo] = {
        ExifTags.GPS.GPSLatitudeRef: "N",
        ExifTags.GPS.GPSLatitude: (point.latitude_deg, 0.0, 0.0),
        ExifTags.GPS.GPSLongitudeRef: "E",
        ExifTags.GPS.GPSLongitude: (point.longitude_deg, 0.0, 0.0),
    }
    xmp = xmp_option(tmp_path / "2.jpg", b'<x drone-dji:GimbalPitchDegree="-90.0"/>')
    with Image.open(site / "photos/2.png") as image:
        image.convert("RGB").save(tmp_path / "2.jpg", quality=95, exif=exif, **xmp)
    assert locate(tmp_path / "2.jpg", "--format", "csv") == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert row["truth_source"] == "metadata" and float(row["error_m"]) < 1.0


def test_the_gallery_of_another_bundle_is_refused(site, other_bundle, capsys) -> None:
    assert main(["locate", str(other_bundle.folder), str(site / "g"), str(site / "photos")]) == 2
    assert "index the map again with this bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-k", 0], "--top-k is 0"),
        (["--heading", "search", "--rotations", 361], "rotations is 361"),
        (["--near=46,9", "--within", 0], "--within is 0; expected metres"),
        (["--near=46,9", "--within", "nan"], "--within is nan"),
        (["--threads", 100_000], "threads is 100000"),
        (["--out", "/dev/full/x"], "a part of its path is a file"),
        (["--picture", "p", "--map", "."], "is a folder. Name the raster"),
        (["--heading", "search", "--rotations", 0], "--rotations is 0"),
        (["--near=91,0", "--within", 5], "latitude 91 and longitude 0; expected degrees"),
        (["--precision", "fp16"], "holds no fp16 model"),
        (["--threads", -1], "--threads is -1"),
        (["--device", "cuda-onnxruntime"], "has no CUDAExecutionProvider"),
        (["--device", "cuda"], "needs the package pycuda"),
        (["--device", "gpu"], "--device is 'gpu'; expected one of cpu, cuda"),
        (["--truth", "none.csv"], "cannot be read"),
    ],
)
def test_options_that_cannot_work_end_with_code_2(site, locate, words: list, message: str, capsys) -> None:
    try:
        code = locate(site / "photos", *words)
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--tile-m": 0}, "above 0"),
        ({"--stride-m": "inf"}, "above 0"),
        ({"--stride-m": 0.001}, "a gallery of about 3.36e+03 GB; at most 50,000,000 tiles"),
        ({"--tile-m": 5}, "fewer than 16 pixels per side on this map of 0.5 m per pixel. Choose a tile of at least 8"),
        ({"--tile-m": 5000}, "less than one tile of 5000 x 5000 m"),
        ({"--batch": 0}, "batch is 0"),
        ({"--max-nodata": 2}, "--max-nodata is 2.0; expected a share in [0, 1)"),
        ({"--out": "map.tif"}, "which is the map too"),
        ({"--out": "photos"}, "is a folder"),
    ],
)
def test_an_index_that_cannot_work_ends_with_code_2(bundle, site, changed: dict, message: str, capsys) -> None:
    options = {"--tile-m": 50, "--stride-m": 25, "--out": "new", **changed}
    options["--out"] = site / options["--out"]
    words = [str(word) for option in options.items() for word in option]
    assert main(["index", str(bundle.folder), str(site / "map.tif"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (site / "new").exists()


def test_a_required_signature_lets_only_the_signers_bundle_through(site, bundle, tmp_path: Path, capsys) -> None:
    pytest.importorskip("cryptography")
    from export.signing import make_key, sign_bundle

    signed = shutil.copytree(bundle.folder, tmp_path / "signed")
    ours, theirs = make_key(tmp_path / "ours.pem"), make_key(tmp_path / "theirs.pem")
    words = [str(signed), str(site / "g"), str(site / "photos/2.png"), "--require-signature"]
    assert main(["locate", *words, str(ours)]) == 2
    assert "is not signed" in capsys.readouterr().err
    sign_bundle(signed, tmp_path / "ours.pem")
    assert main(["locate", *words, str(ours)]) == 0
    assert main(["doctor", str(signed), "--require-signature", str(ours)]) == 0
    capsys.readouterr()
    for command in (["locate", *words], ["doctor", str(signed), "--require-signature"]):
        assert main([*command, str(theirs)]) == 2
        assert "is signed by the key" in capsys.readouterr().err
    assert main(["doctor", "--require-signature", str(ours)]) == 2
    assert "no bundle was named" in capsys.readouterr().err


def test_pictures_from_another_map_are_refused(site, locate, tmp_path: Path, capsys) -> None:
    (tmp_path / "map.tif").write_bytes((site / "map.tif").read_bytes() + b"\0")
    assert locate(site / "photos", "--picture", tmp_path / "p", "--map", tmp_path / "map.tif") == 2
    assert "is not the map of" in capsys.readouterr().err
    assert locate(site / "photos", "--picture", tmp_path / "p") == 2
    assert "--picture needs --map" in capsys.readouterr().err


def test_no_output_replaces_an_input(bundle, site, locate, tmp_path: Path, capsys) -> None:
    photo, pictures = site / "photos/2.png", ("--map", site / "map.tif", "--picture", site / "photos")
    before = {path: path.read_bytes() for path in [photo, site / "g", bundle.folder / "manifest.json"]}
    for words in (("--out", photo), ("--summary", site / "g"), ("--out", bundle.folder / "manifest.json"), pictures):
        assert locate(photo, *words) == 2
        captured = capsys.readouterr()
        assert "would write" in captured.err and captured.out == ""
    assert locate(photo, "--out", "/dev/null") == 2
    assert "a device or a pipe" in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_truth_that_is_not_of_these_photos_or_this_map_is_refused(site, locate, tmp_path: Path, capsys) -> None:
    truth, head = tmp_path / "t.csv", "photo,latitude_deg,longitude_deg"
    truth.write_text(f"{head}\nother.png,46.9,9\n")
    assert locate(site / "photos", "--truth", truth) == 2
    assert "t.csv names none of the 3 photos: it has 1 rows such as 'other.png'" in capsys.readouterr().err
    truth.write_text(f"{head}\n2.png,9,46.9\n")
    assert locate(site / "photos", "--truth", truth) == 2
    assert "places 2.png at latitude 9, longitude 46.9, over" in capsys.readouterr().err
    (tmp_path / "2.png").write_bytes((site / "photos/2.png").read_bytes())
    assert locate(site / "photos", tmp_path / "2.png", "--truth", site / "truth.csv") == 2
    assert "names 2.png, as 2 of the photos" in capsys.readouterr().err
    assert locate(site / "photos/2.png", "--truth", site / "truth.csv", "--summary", tmp_path / "s") == 0
    assert "1 photos located; truth of 1 from the file" in capsys.readouterr().out
    assert json.loads((tmp_path / "s").read_text())["n_truth_unused"] == 2


def test_more_matches_than_tiles_are_said_to_be_all(site, locate, capsys) -> None:
    assert locate(site / "photos/2.png", "--top-k", 100) == 0
    assert "has 35 tiles, fewer than --top-k 100: all are looked at" in capsys.readouterr().err


def test_a_photo_whose_name_is_no_text_is_listed_and_drawn(site, locate, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "odd\udcff"
    folder.mkdir()
    (folder / "a\nb\udcff.png").write_bytes((site / "photos/2.png").read_bytes())
    (folder / "cut\n\udcff.png").write_bytes(b"")
    for form in FORMATS:
        words = ("--format", form, "--out", folder / f"list.{form}")
        assert locate(folder, *words, "--picture", folder / "p", "--map", site / "map.tif") == 2
        assert "a\\nb" in (folder / f"list.{form}").read_text() or form == "csv"
        lines = [line for line in capsys.readouterr().err.splitlines() if "cut" in line]
        assert len(lines) == 1 and "cut\\n\\udcff.png is not a picture" in lines[0]


def test_photos_of_one_name_keep_a_picture_each(site, locate, tmp_path: Path) -> None:
    for folder, row in (("a", 2), ("b", 15)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "map.png").write_bytes((site / f"photos/{row}.png").read_bytes())
    pictures = ("--picture", tmp_path / "p", "--map", site / "map.tif")
    assert locate(tmp_path / "a", tmp_path / "b", *pictures) == 0
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["map-2.png", "map-3.png", "map.png"]


def test_a_damaged_bundle_is_refused(bundle, site, tmp_path: Path, capsys) -> None:
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(bundle.folder, copy)
    (copy / "model.fp32.onnx").write_bytes((copy / "model.fp32.onnx").read_bytes()[:-1])
    assert main(["locate", str(copy), str(site / "g"), str(site / "photos")]) == 2
    assert "is damaged: its sha256" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is not a bundle" in capsys.readouterr().err


def test_inspect_says_what_a_bundle_and_a_gallery_hold(bundle, site, capsys) -> None:
    assert main(["inspect", str(bundle.folder)]) == 0
    assert f"digest      {bundle.digest}" in capsys.readouterr().out
    assert main(["inspect", str(site / "g")]) == 0
    assert "tiles       35 of 50 x 50 m, every 25 m" in capsys.readouterr().out


def test_index_writes_the_maps_pixels_too_and_inspect_says_what_they_are(bundle, site, tmp_path: Path, capsys) -> None:
    words = ["index", bundle.folder, site / "map.tif", "--tile-m", 50, "--stride-m", 25, "--out", tmp_path / "g"]
    assert main([*map(str, words), "--with-map", str(tmp_path / "p"), "--map-gsd-m", "1"]) == 0
    assert f"{tmp_path / 'p'}: the map at 0.81" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "p")]) == 0
    out = capsys.readouterr().out
    assert "bytes, WebP of quality 80" in out and "pixels      0.81" in out and "level       zoom 17: " in out
    digest = open_gallery(tmp_path / "g").origin.map_sha256
    assert f"map         map.tif, 0.5002 m a pixel, EPSG:32632, sha256 {digest}" in out
    for more, message in (
        (["--map-gsd-m", "1"], "--map-gsd-m says how fine a map pack is"),
        (["--with-map", tmp_path / "q", "--map-gsd-m", "0"], "--map-gsd-m is 0.0"),
        (["--with-map", site / "map.tif"], "which is the map too"),
        (["--with-map", tmp_path / "g"], "which is --out too"),
    ):
        assert main([*map(str, words), *map(str, more)]) == 2
        assert message in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "none")]) == 2
    assert "is not a file" in capsys.readouterr().err


def test_doctor_runs_the_selftest_and_names_what_is_missing(bundle, monkeypatch, capsys) -> None:
    assert main(["doctor", str(bundle.folder)]) == 0
    assert "self-test    onnxruntime CPU fp32: min cosine 1.000000 over 3 images, good" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert main(["doctor"]) == 0
    assert "rasterio     missing: pip install 'dphr[map]'" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["doctor"]) == 2
    assert "pip install 'dphr[cpu]'" in capsys.readouterr().err


def test_doctor_refuses_an_engine_that_misses_the_selftest(with_model, capsys) -> None:
    assert main(["doctor", str(with_model(bias=500.0).folder)]) == 2
    assert "at least 0.999 is needed" in capsys.readouterr().err


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from dphr_infer.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_while_indexing_is_one_line_and_leaves_nothing(bundle, site, tmp_path: Path) -> None:
    words = ["index", bundle.folder, site / "map.tif", "--tile-m", 50, "--stride-m", 25, "--out", tmp_path / "o/g"]
    command = [sys.executable, "-c", FULL_DISK, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "could not be written" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "o").iterdir()) == []


IMPORTS = "import sys, tyro, dphr_infer.cli.requests; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def test_the_options_of_a_command_wait_for_no_package_but_the_parsers() -> None:
    # Start-up time hangs on this; `bench` measures it.
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    # An editable installation's finder and an interpreter's configuration begin with an underscore.
    loaded = {name for name in done.stdout.split() if not name.startswith("_")} - sys.stdlib_module_names
    assert loaded == {"tyro", "docstring_parser", "typing_extensions", "dphr_infer"}
