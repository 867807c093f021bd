from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from dphr_infer.errors import ConfigError, DatasetError, ExportError
from dphr_train.datasets.open import open_dataset
from dphr_train.evaluate import evaluate
from dphr_train.types import PlaceImage
from export.gate.evaluation_set import EvaluationSet, needed_queries, read_evaluation_set, require_enough, spread

CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")
TILES = 5
# Of write_university, as bundles of this format name it: the whole set, and cut to 16 images.
DIGEST_WHOLE = "7fb04bd8e5438a9387306e51ddde02655402e381406f2f384ec0eab1670750e3"
DIGEST_CUT = "631ec61828b5468085436ed063d5d4644bd79da21eab52877bdc128b9d3f2f32"


def write_files(root: Path, names: Iterable[str]) -> None:
    """A file at each path, whose content is its path: nothing here decodes a picture."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def write_university(root: Path) -> Path:
    """Places 0-3 with 3 queries each, 4 and 5 distractors."""
    write_files(root, (f"test/gallery_satellite/{place:04d}/0.png" for place in range(6)))
    write_files(root, (f"test/query_drone/{place:04d}/{view}.png" for place in range(4) for view in range(3)))
    return root


def write_sues(root: Path) -> Path:
    """At 150 m: queries of places 3-6 with 3 images each, galleries of 1-6."""
    for role, places in (("query", range(3, 7)), ("gallery", range(1, 7))):
        for place in places:
            write_files(root, [f"Testing/150/{role}_drone/{place:04d}/{view}.jpg" for view in range(3)])
            write_files(root, [f"Testing/150/{role}_satellite/{place:04d}/0.png"])
    return root


def write_cvusa(root: Path, pairs: int = 9) -> Path:
    """Validation pairs from the highest place down to 1."""
    rows = [(f"bingmap/19/{i:07d}.jpg", f"streetview/panos/{i:07d}.jpg", "none") for i in range(pairs, 0, -1)]
    write_files(root, (name for row in rows for name in row[:2]))
    (root / "splits").mkdir()
    (root / "splits/val-19zl.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    return root


def write_cvact(root: Path) -> Path:
    """Rows 0-9 at east 10 i m; row 0 trains, 1 validates, 9 down to 2 test."""
    names = [f"pano{row}" for row in range(10)]
    for row in range(2, 10):
        write_files(root / "ANU_data_test", [f"streetview/{names[row]}_grdView.jpg"])
        write_files(root / "ANU_data_test", [f"satview_polish/{names[row]}_satView_polish.jpg"])
    split = {"trainSet": ("trainInd", [1]), "valSet": ("valInd", [2]), "valSetAll": ("valInd", list(range(10, 2, -1)))}
    content = {name: {member: np.array(rows)[:, None]} for name, (member, rows) in split.items()}
    utm = np.array([[10.0 * row, 0.0] for row in range(10)])
    savemat(root / "ACT_data.mat", {"panoIds": np.array(names), "utm": utm, **content})
    return root


def tile(city: str, number: int) -> str:
    return f"satellite_{40 + CITIES.index(city) + number / 100:.2f}_-70.0.png"


def write_vigor(root: Path) -> Path:
    """Four cities of 5 tiles, and panoramas p3 and p1 of tiles 3 and 1, both with the semi-positives 4, 2, 0."""
    for city in CITIES:
        rows = []
        for number in (3, 1):
            labels = " ".join(f"{tile(city, at)} 0 0" for at in (number, 4, 2, 0))
            rows.append(f"{city}_p{number}.jpg {labels}\n")
        write_files(root, (f"{city}/panorama/{row.split()[0]}" for row in rows))
        write_files(root, (f"{city}/satellite/{tile(city, number)}" for number in range(TILES)))
        lists = root / "splits" / city
        lists.mkdir(parents=True)
        (lists / "satellite_list.txt").write_text("".join(f"{tile(city, number)}\n" for number in range(TILES)))
        (lists / "same_area_balanced_test.txt").write_text("".join(rows))
    return root


def unit_rows(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_whole_split_is_taken_when_it_fits(places: Path) -> None:
    data = read_evaluation_set(places, 1000)
    assert (len(data.queries), len(data.gallery)) == (18, 8)
    assert (data.query_view, data.gallery_view) == ("drone", "satellite")
    assert data.name(data.queries[0]) == "test/query_drone/0000/00.png"


def test_a_cut_takes_the_same_number_of_queries_from_every_place(places: Path) -> None:
    data = read_evaluation_set(places, 20)
    assert len(data.images()) == 20
    assert Counter(data.query_ids().tolist()) == {0: 2, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2}


def test_a_cut_of_the_gallery_drops_distractors_first_and_keeps_every_query_answerable(
    tmp_path: Path, make_places: Callable[..., Path]
) -> None:
    data = read_evaluation_set(make_places(tmp_path, 6, 4, distractors=20), 16)
    assert data.gallery_ids().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert set(data.query_ids()) <= set(data.gallery_ids())
    assert len(data.images()) == 16


def test_too_few_places_are_refused_with_both_numbers(tmp_path: Path, make_places: Callable[..., Path]) -> None:
    with pytest.raises(
        ExportError, match=r"has 3 test places with both views .* needs at least 4 places and 16 images"
    ):
        read_evaluation_set(make_places(tmp_path, 3, 10), 1000)


def test_too_few_images_are_refused_with_both_numbers(places: Path) -> None:
    with pytest.raises(ExportError, match="26 images, of which at most 10 may be used"):
        read_evaluation_set(places, 10)


def test_the_digest_of_a_university_set_is_the_one_that_bundles_name(tmp_path: Path) -> None:
    root = write_university(tmp_path)
    assert read_evaluation_set(root, 1000).digest() == DIGEST_WHOLE
    assert read_evaluation_set(root, 16).digest() == DIGEST_CUT


def test_the_digest_changes_with_one_image(tmp_path: Path) -> None:
    before = read_evaluation_set(write_university(tmp_path), 1000).digest()
    (tmp_path / "test/query_drone/0000/0.png").write_bytes(b"other")
    assert read_evaluation_set(tmp_path, 1000).digest() != before


def test_rows_are_spread_by_turns() -> None:
    assert spread([7, 7, 7, 2, 5, 5], 5) == [0, 3, 4, 1, 5]
    assert spread([7, 7, 7, 2, 5, 5], 99) == [0, 3, 4, 1, 5, 2]


def test_sues_200_is_read_at_its_height_with_the_training_places_as_distractors(tmp_path: Path) -> None:
    data = read_evaluation_set(write_sues(tmp_path), 1000, "sues200-150")
    assert data.query_ids().tolist() == [3, 4, 5, 6] * 3
    assert data.gallery_ids().tolist() == [3, 4, 5, 6, 1, 2]
    assert data.name(data.queries[4]) == "Testing/150/query_drone/0003/1.jpg"
    with pytest.raises(DatasetError, match=r"Testing/300/query_drone is missing"):
        read_evaluation_set(tmp_path, 1000, "sues200-300")


def test_cvusa_gives_its_validation_pairs_panoramas_first(tmp_path: Path) -> None:
    data = read_evaluation_set(write_cvusa(tmp_path), 1000, "cvusa")
    assert (data.query_view, data.gallery_view, data.rules.one_percent) == ("ground", "satellite", "floor")
    assert data.query_ids().tolist() == data.gallery_ids().tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert data.name(data.queries[0]) == "streetview/panos/0000009.jpg"
    assert data.name(data.gallery[0]) == "bingmap/19/0000009.jpg"


def test_a_set_of_pairs_is_cut_to_pairs(tmp_path: Path) -> None:
    data = read_evaluation_set(write_cvusa(tmp_path, 30), 16, "cvusa")
    assert data.query_ids().tolist() == data.gallery_ids().tolist() == list(range(30, 22, -1))


def test_cvact_keeps_the_positions_of_the_rows_that_are_left(tmp_path: Path) -> None:
    data = read_evaluation_set(write_cvact(tmp_path), 16, "cvact-test")
    assert data.query_ids().tolist() == [9, 8, 7, 6, 5, 4, 3, 2]
    assert data.rules.positions is not None
    assert data.rules.positions.queries_m[:, 0].tolist() == [90, 80, 70, 60, 50, 40, 30, 20]
    assert data.report(unit_rows(16, 0)).within_m == 5.0


@pytest.mark.parametrize(
    ("dataset", "write"),
    [
        ("vigor-same", write_vigor),
        ("cvact-test", write_cvact),
        ("sues200-150", write_sues),
        # At 60 references the two rules of recall@1% count another number of ranks.
        ("cvusa", lambda root: write_cvusa(root, 60)),
    ],
)
def test_a_whole_set_reports_what_the_evaluation_of_training_reports(tmp_path: Path, dataset, write) -> None:
    data = read_evaluation_set(write(tmp_path), 1000, dataset)
    of_path = dict(zip([image.path for image in data.images()], unit_rows(len(data.images()), 3), strict=True))
    directions = open_dataset(dataset, tmp_path).test_directions()[:1]
    trained = evaluate(lambda paths, *_: np.stack([of_path[path] for path in paths]), directions)
    assert data.report(np.stack(list(of_path.values()))) == trained[0].reports["full"]


def test_a_vigor_semi_positive_before_the_right_one_breaks_no_hit(tmp_path: Path) -> None:
    data = read_evaluation_set(write_vigor(tmp_path), 1000, "vigor-same")
    names = [data.name(image) for image in data.gallery]
    own = [data.gallery_ids().tolist().index(place) for place in data.query_ids()]
    queries = np.eye(len(names), dtype=np.float32)[own]
    for row, semi in ((0, 4), (1, 2)):  # nearer to a tile that shows the place off its centre
        city = data.name(data.queries[row]).partition("/")[0]
        queries[row, names.index(f"{city}/satellite/{tile(city, semi)}")] = 2.0
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    embeddings = np.concatenate([queries, np.eye(len(names), dtype=np.float32)])
    report = data.report(embeddings)
    assert report.recall_at[1] == pytest.approx(6 / 8)
    assert report.hit_rate == 1.0


def test_a_cut_vigor_set_keeps_its_semi_positives_where_they_are_and_its_own_row_where_they_are_not(
    tmp_path: Path,
) -> None:
    data = read_evaluation_set(write_vigor(tmp_path), 18, "vigor-same")
    names = [data.name(image) for image in data.gallery]
    assert len(names) == 10
    assert names[:2] == [f"Chicago/satellite/{tile('Chicago', number)}" for number in (1, 3)]
    assert names[8:] == [f"Chicago/satellite/{tile('Chicago', number)}" for number in (0, 2)]
    queries = [data.name(query) for query in data.queries]
    assert data.rules.semi_positives is not None
    assert data.rules.semi_positives[queries.index("Chicago/panorama/Chicago_p3.jpg")].tolist() == [1, 9, 8]
    assert data.rules.semi_positives[queries.index("Seattle/panorama/Seattle_p1.jpg")].tolist() == [6, 6, 6]
    nearest_itself = data.gallery_ids()[None, :] == data.query_ids()[:, None]
    gallery = np.eye(10, dtype=np.float32)
    report = data.report(np.concatenate([nearest_itself.astype(np.float32), gallery]))
    assert (report.recall_at[1], report.hit_rate) == (1.0, 1.0)


def test_a_folder_without_a_test_split_is_refused(tmp_path: Path) -> None:
    write_cvusa(tmp_path)
    (tmp_path / "splits/val-19zl.csv").rename(tmp_path / "splits/train-19zl.csv")
    with pytest.raises(ExportError, match="has no test split of cvusa"):
        read_evaluation_set(tmp_path, 1000, "cvusa")


def test_a_folder_of_another_benchmark_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Ask for the data set cvusa"):
        read_evaluation_set(write_cvusa(tmp_path), 1000)


def test_a_data_set_of_no_known_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.dataset is 'cvus'; choose one of university1652"):
        read_evaluation_set(write_university(tmp_path), 1000, "cvus")


def of_queries(count: int) -> EvaluationSet:
    images = tuple(PlaceImage(Path(f"/d/{row}.png"), row % 4) for row in range(count))
    return EvaluationSet(Path("/d"), images, images[:4])


def test_int8_needs_200_queries_because_one_of_fewer_is_worth_more_than_its_limit() -> None:
    assert needed_queries("int8") == 200
    require_enough(of_queries(200), ("fp32", "fp16", "int8"))
    with pytest.raises(ExportError, match="has 199 queries; int8 needs at least 200") as caught:
        require_enough(of_queries(199), ("fp32", "fp16", "int8"))
    assert "\n" not in str(caught.value)


def test_floating_point_models_are_proved_by_the_smallest_set() -> None:
    require_enough(of_queries(4), ("fp32", "fp16"))
    with pytest.raises(ExportError, match="has 3 queries; fp16 needs at least 4"):
        require_enough(of_queries(3), ("fp16",))
