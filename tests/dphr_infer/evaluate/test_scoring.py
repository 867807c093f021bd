import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from dphr_infer.errors import ConfigError
from dphr_infer.evaluate.listing import summary_lines, to_text
from dphr_infer.evaluate.scoring import LocatedPhoto, summarise
from dphr_infer.evaluate.truth import Truth, read_truth, truth_of
from dphr_infer.geo import offset
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.types import GeoPoint, LocationEstimate, Place

CORNERS = ",".join(f"corner{i}_{axis}_deg" for i in (1, 2, 3, 4) for axis in ("latitude", "longitude"))
CENTRE = GeoPoint(47.0, 8.0)


def located(name: str, truth: bool, accepted: bool, *errors_m: float, footprint: bool = False) -> LocatedPhoto:
    """A photo taken at CENTRE whose top places lie the given metres east of it."""
    places = tuple(Place(i, offset(CENTRE, error, 0.0), 0.9 - i / 10) for i, error in enumerate(errors_m))
    corners = [offset(CENTRE, east, north) for east, north in [(-10, -10), (10, -10), (10, 10), (-10, 10)]]
    known = Truth(CENTRE, tuple(corners) if footprint else (), "file") if truth else None
    estimate = LocationEstimate(
        places[0].point,
        0.9,
        "retrieved" if accepted else "none",
        25.0,
        places,
        0.0,
        reason="" if accepted else "ambiguous, it says",
    )
    return LocatedPhoto(Path(name), PhotoMetadata(), estimate, known)


PHOTOS = [
    located("a.jpg", True, True, 10.0, 5.0, footprint=True),
    located("b.jpg", True, True, 30.0, 90.0),
    located("c.jpg", True, False, 200.0, 20.0, footprint=True),
    located("d.jpg", False, True, 0.0, 0.0),
]


def test_the_summary_of_four_photos_is_the_one_found_by_hand() -> None:
    found = summarise(PHOTOS, tile_m=50.0)
    assert (found.n_photos, found.n_with_truth, found.n_with_footprint, found.top_k) == (4, 3, 2, 2)
    assert found.median_error_m == pytest.approx(30.0, rel=1e-3)
    assert found.share_within_40_m == pytest.approx(2 / 3)
    assert found.oracle_median_error_m == pytest.approx(20.0, rel=1e-3)
    assert found.oracle_share_within_40_m == 1.0
    assert found.accepted_share == 0.75
    assert found.accepted_median_error_m == pytest.approx(20.0, rel=1e-3)
    assert (found.recall_at_1, found.recall_at_k) == (0.5, 1.0)


def test_a_summary_without_truth_claims_no_error() -> None:
    found = summarise(PHOTOS[3:], tile_m=50.0)
    assert (found.median_error_m, found.accepted_median_error_m, found.recall_at_1) == (None, None, None)
    assert summary_lines(found) == [
        "1 photos located; truth of 0 from the file, 0 from metadata, 1 unknown",
        "  accepted: 100%",
    ]
    assert summarise([], 50.0).accepted_share is None
    assert summary_lines(summarise(PHOTOS, 50.0, 7))[0] == (
        "4 photos located; truth of 3 from the file, 0 from metadata, 1 unknown; 7 rows of the truth file unused"
    )


def test_without_a_footprint_a_tile_is_marked_right_if_the_true_centre_lies_in_it() -> None:
    assert PHOTOS[1].right_places(50.0) == () and PHOTOS[1].shown_by(50.0) == (False, False)
    assert PHOTOS[1].shown_by(70.0) == (True, False)
    assert PHOTOS[0].shown_by(50.0) == PHOTOS[0].right_places(50.0) == (True, True)
    assert PHOTOS[3].shown_by(50.0) == ()


def test_the_csv_says_what_is_known_and_leaves_the_rest_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(to_text(PHOTOS, "csv"))))
    assert [row["photo"] for row in rows] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [row["error_m"] for row in rows] == ["10.0", "30.0", "200.0", ""]
    assert [row["accepted"] for row in rows] == ["true", "true", "false", "true"]
    assert [row["verdict"] for row in rows] == ["retrieved", "retrieved", "none", "retrieved"]
    assert [row["reason"] for row in rows] == ["", "", "ambiguous, it says", ""]
    assert rows[3]["truth_source"] == "" and float(rows[3]["longitude_deg"]) == 8.0


def test_geojson_positions_are_longitude_then_latitude() -> None:
    content = json.loads(to_text(PHOTOS, "geojson"))
    assert content["type"] == "FeatureCollection"
    assert content["features"][3]["geometry"] == {"type": "Point", "coordinates": [8.0, 47.0]}
    assert content["features"][3]["properties"]["error_m"] is None
    properties = content["features"][2]["properties"]
    assert (properties["accepted"], properties["verdict"]) == (False, "none")
    assert properties["reason"] == "ambiguous, it says"


def test_the_table_has_a_line_for_each_photo_and_says_why_one_is_not_to_be_used() -> None:
    head, *lines = to_text(PHOTOS, "table").splitlines()
    assert [len(line) for line in lines] == [len(head)] * 2 + [len(head) + 20] + [len(head)]
    numbers = ["c.jpg", "47.000000", "8.002630", "0.9000", "none", "25", "m", "200.0", "m"]
    assert lines[2].split() == [*numbers, "ambiguous,", "it", "says"] and lines[2].endswith("  ambiguous, it says")


def test_truth_is_taken_from_the_file_before_the_metadata() -> None:
    metadata = PhotoMetadata(CENTRE, 40.0, 0.0, -90.0)
    known = {"a.jpg": Truth(GeoPoint(1.0, 2.0), (), "file")}
    assert truth_of(Path("x/a.jpg"), metadata, known) == known["a.jpg"]
    from_metadata = truth_of(Path("x/b.jpg"), metadata, known)
    assert from_metadata is not None and from_metadata.source == "metadata"
    np.testing.assert_allclose(from_metadata.point.latitude_deg, 47.0)
    assert truth_of(Path("x/b.jpg"), PhotoMetadata(), known) is None


def test_the_samples_truth_has_corners_around_each_centre() -> None:
    truths = read_truth(Path(__file__).parents[3] / "samples/brighton_beach/truth.csv")
    assert len(truths) == 18 and all(len(truth.corners) == 4 for truth in truths.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,latitude_deg,longitude_deg\na,1,2\n", "names no photo"),
        ("photo,latitude_deg\na,1\n", "line 2 has longitude_deg = ''"),
        ("photo,latitude_deg,longitude_deg\na,north,2\n", "latitude_deg = 'north'"),
        ("photo,latitude_deg,longitude_deg\na,nan,2\n", "latitude_deg = 'nan'"),
        ("photo,latitude_deg,longitude_deg\na,1,200\n", "±180"),
        ("photo,latitude_deg,longitude_deg\na,1,2\na,1,2\n", "line 3 names a a second time"),
        ("photo,latitude_deg,longitude_deg\n", "has no row"),
        ("", "has no row"),
        ("photo,latitude_deg,longitude_deg,corner1_latitude_deg\na,1,2,3\n", "in part: lacking corner1_longitude_deg,"),
        (
            f"photo,latitude_deg,longitude_deg,{CORNERS}\na,1,2,1,2,3,4,5,6,7,\n",
            "line 2 has corner4_longitude_deg = ''",
        ),
        (f"photo,latitude_deg,longitude_deg,{CORNERS}\na,1,2,1,2,3,4,5,6,x,8\n", "corner4_latitude_deg = 'x'"),
    ],
)
def test_a_truth_file_with_a_fault_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_truth(tmp_path / "truth.csv")


def test_a_missing_or_binary_truth_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_bytes(b"\xff\xfe\x00\x80")
    for name in ("truth.csv", "none.csv"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_truth(tmp_path / name)


def test_lists_for_programs_carry_the_path_the_camera_and_the_places() -> None:
    photo = located("far/a\udcff.jpg", True, True, 10.0, 5.0)
    photo = dataclasses.replace(photo, metadata=PhotoMetadata(camera=CENTRE))
    (row,) = csv.DictReader(io.StringIO(to_text([photo], "csv")))
    assert (row["photo"], row["gps_latitude_deg"]) == ("far/a\\udcff.jpg", "47.0")
    properties = json.loads(to_text([photo], "geojson"))["features"][0]["properties"]
    assert (properties["photo"], properties["gps_longitude_deg"]) == ("far/a\\udcff.jpg", 8.0)
    assert [place["row"] for place in properties["places"]] == [0, 1]
    assert properties["places"][1]["similarity"] == 0.8 and properties["places"][1]["latitude_deg"] == 47.0
    assert to_text([located("a\nb.jpg", True, True, 1.0)], "table").splitlines()[1].startswith("a\\nb.jpg ")
