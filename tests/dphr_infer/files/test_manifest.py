from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.errors import BundleError
from dphr_infer.files.calibration import Calibration, Promise, VerdictCalibration, calibration_lines
from dphr_infer.files.manifest import Manifest, Parity, Quantisation, parse_manifest
from dphr_infer.images.preprocess import Preprocess

DIGEST = "ab" * 32
CALIBRATION = Calibration(
    tile_m=150.0,
    stride_m=37.5,
    date="2026-11-29",
    maps=("north", "é"),
    verdict=VerdictCalibration(0.567, 0.25, 0.05, 136, {"another map": 0.0, "own map": 0.0074}, 0.1765),
    promise=Promise(2.1, 0.3, 0.1, 0.998, 0.4, 0.5, 0.05, 104, 1, 0.045, {"right": 0.6}, 1.9, 1.5, 2.5, (60, 9, 3)),
)
MANIFEST = Manifest(
    encoder="tiny é",
    dim=24,
    max_batch=16,
    preprocess=Preprocess(32, 48, "box", "stretch"),
    files={"model.fp32.onnx": DIGEST, "model.int8.onnx": DIGEST, "selftest/images/0.png": DIGEST},
    parity={"fp32": Parity(1.0, 1.0, 0.0, 0.0, 3), "int8": Parity(0.96, 0.99, 0.004, -0.001, 240)},
    origin={"made_by": "tests"},
    quantisation=Quantisation("mean", "int8", DIGEST, 64, ("stem", "head")),
    calibration=CALIBRATION,
)
VALID: dict[str, Any] = json.loads(MANIFEST.to_json())
CONTENT = MANIFEST.to_json().encode()
DELETED = object()
# Numbers that may be written as integers: of parity some, of a calibration all but the counts.
NUMBERS = ("min_cosine", "mean_cosine", "recall_drop", "ap_drop", "calibration")
COUNTS = ("n", "wrong", "confirmed_ranks")


def changed(path: str, value: object) -> dict[str, Any]:
    """The valid manifest with one value changed, its path given by dots; DELETED removes it."""
    content = copy.deepcopy(VALID)
    *folders, last = path.split(".")
    place = content
    for name in folders:
        place = place[name]
    if value is DELETED:
        del place[last]
    else:
        place[last] = value
    return content


def refusal(content: str | bytes) -> str:
    """The one line that refuses it."""
    with pytest.raises(BundleError) as caught:
        parse_manifest(content, "manifest.json")
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


def test_a_manifest_comes_back_from_its_bytes_and_its_text() -> None:
    assert parse_manifest(CONTENT, "x") == MANIFEST
    assert parse_manifest(CONTENT.decode(), "x") == MANIFEST
    assert MANIFEST.precisions == ("fp32", "int8")


def test_further_fields_at_the_top_are_ignored_and_nowhere_else() -> None:
    assert parse_manifest(json.dumps({**VALID, "later": [{"a": 1e300}]}), "x") == MANIFEST
    for place in ("preprocess", "parity.fp32", "quantisation"):  # and of the calibration, below
        assert 'has a field "later", which is unknown' in refusal(json.dumps(changed(f"{place}.later", 1)))


def test_a_bundle_of_before_calibration_is_not_calibrated_and_says_what_to_do() -> None:
    for value in (DELETED, None):
        old = parse_manifest(json.dumps(changed("calibration", value)), "x")
        assert old == dataclasses.replace(MANIFEST, calibration=None)
    (line,) = calibration_lines(None)
    assert line.startswith("calibrated  never: no photo is retrieved") and "dphr-export calibrate BUNDLE" in line


def test_a_calibration_says_what_may_be_believed_and_by_what_right() -> None:
    assert calibration_lines(CALIBRATION) == [
        "retrieved   from similarity 0.567 and margin 0.250 on; alpha 0.05, accepted wrongly: another map 0.0%, own "
        "map 0.7%; accepted over its own map: 17.6%; 136 photos of each kind",
        "promise     of stretches of one tile side with a fix at most 5.0% have one that is wrong by more than a tile "
        "side; 1 of 104 had (upper bound 4.5%); fixes: right 60%",
        "filter      k 2.1, theta 0.3, o 0.1, fix mass 0.998; ANEES 1.90, inside its band of 1.50 to 2.50",
        "calibrated  2026-11-29 at 95% confidence on 2 maps (north, é), tile 150 m, stride 37.5 m",
    ]
    nothing = dataclasses.replace(
        CALIBRATION,
        verdict=dataclasses.replace(CALIBRATION.verdict, floor=None, margin=None),
        promise=dataclasses.replace(CALIBRATION.promise, fix_mass=None, anees=2.6),
    )
    retrieved, promise, filtered, _ = nothing.lines()
    assert retrieved.startswith("retrieved   never: at alpha 0.05 no similarity and margin told right from wrong")
    assert promise == "promise     none: at alpha 0.05 no threshold held"
    assert filtered.endswith("fix mass never; ANEES 2.60, OUTSIDE its band of 1.50 to 2.50")


@pytest.mark.parametrize(
    ("tile_m", "stride_m", "fits"), [(150.0, 37.5, True), (20.0, 5.0, True), (100.0, 31.0, True), (26.0, 2.0, False)]
)
def test_a_calibration_fits_galleries_whose_tiles_overlap_alike(tile_m: float, stride_m: float, fits: bool) -> None:
    assert CALIBRATION.fits(tile_m, stride_m) is fits


def test_a_cosine_a_hair_above_1_and_an_integer_for_a_fraction_are_taken() -> None:
    content = changed("parity.fp32", {**VALID["parity"]["fp32"], "min_cosine": 1, "mean_cosine": 1.0000002})
    assert parse_manifest(json.dumps(content), "x").parity["fp32"] == Parity(1.0, 1.0000002, 0.0, 0.0, 3)


@pytest.mark.parametrize(
    ("path", "values", "words"),
    [
        ("format", ["other", None, {}, 2], 'this program reads "dphr-bundle" version 2'),
        ("version", [99, 1, 2.0, True, "2", None, []], 'this program reads "dphr-bundle" version 2'),
        ("encoder", [None, 3, ["a"], "\ud800"], "encoder is"),
        ("dim", ["24", 24.0, 24.9, 0, -1, True, None, 2**31, 10**400, 1e300, [], {}], "an integer in [1, 2147483647]"),
        ("max_batch", [1e30, "16", 0, False, 2**31], "an integer in [1, 2147483647]"),
        ("preprocess", [None, [], "x"], "preprocess is"),
        ("preprocess.height_px", [32.0, "32", 15, True, 2**31], "preprocess.height_px is"),
        ("preprocess.width_px", [None, 10**7], "preprocess"),
        ("preprocess.interpolation", ["nearest", 1, ["box"], None, "x" * 5000], "not box or bilinear or bicubic"),
        ("preprocess.fit", ["CROP", {}, True], "not crop or stretch"),
        ("files", [[], None, "x"], "files is"),
        ("files", [{}, {"selftest/images/0.png": DIGEST}], "names no model"),
        ("files.x", ["ab", DIGEST.upper(), DIGEST + "\n", 0, None, "é" * 64], "a sha256 of 64 hex digits"),
        ("parity", [[], None, "x"], "parity is"),
        ("parity.fp32", [{}, None, [1.0, 1.0, 0.0, 0.0, 3]], "parity.fp32"),
        ("parity.fp64", [VALID["parity"]["fp32"]], "not fp32 or fp16 or int8"),
        ("parity.fp16", [VALID["parity"]["fp32"]], "parity is of fp32, fp16, int8, but files names the models fp32, i"),
        ("parity.int8", [DELETED], "parity is of fp32, but files names the models fp32, int8"),
        ("parity", [{}], "parity is of no model, but files names the models fp32, int8"),
        ("parity.fp32.min_cosine", [1e300, -5, 1.001, -1.001, True, "1", None, 10**400, [], {}], "a number in [-1, 1]"),
        ("parity.int8.mean_cosine", [2, -(10**400), False], "a number in [-1, 1]"),
        ("parity.int8.recall_drop", [1.00001, -2, "0", True], "a number in [-1, 1]"),
        ("parity.int8.ap_drop", [1.5, None, DELETED], "ap_drop"),
        ("parity.int8.n_images", [-4, "240", 240.0, True, None, 10**400], "an integer in [0, 2147483647]"),
        ("quantisation", [None], "quantisation is null, but files names the models fp32, int8"),
        ("quantisation", [[], {}, "x", False], "quantisation"),
        ("quantisation.weights", ["fp16", None, True, ["int8"]], "not int8 or float"),
        ("quantisation.calibration_sha256", ["cd", None, 3], "a sha256 of 64 hex digits"),
        ("quantisation.n_calibration_images", [-1, 64.0, "64"], "an integer in [0"),
        ("quantisation.float_layers", ["abc", None, {"a": 1}, [1], [None], [["a"]]], "float_layers is"),
        ("calibration", [[], "x", 3, False], "calibration is no object"),
        ("calibration.later", [1], "calibration has a field 'later', which is unknown"),
        ("calibration.maps", ["abc", None, {"a": 1}], "calibration.maps is"),
        ("calibration.maps", [[]], "calibration.maps is (), not at least one name"),
        ("calibration.date", ["today", "2026-11-29 ", "２026-11-29"], "not YYYY-MM-DD"),
        ("calibration.tile_m", [0, -1.5, 1e301], "calibration.tile_m is"),
        ("calibration.verdict", [None, DELETED], "verdict"),
        ("calibration.verdict.floor", [None], "not given exactly where floor is"),
        ("calibration.verdict.floor", [1.5, "0.5", True], "calibration.verdict.floor is"),
        ("calibration.verdict.margin", [-0.1, 2.5], "not a difference in [0, 2]"),
        ("calibration.verdict.n", [0, 3.0, 2**31], "calibration.verdict.n is"),
        ("calibration.verdict.false_shares", [{"a": 1.5}, {"a": None}, []], "calibration.verdict.false_shares"),
        ("calibration.promise.fix_mass", [1, 0.0, "x"], "calibration.promise.fix_mass is"),
        ("calibration.promise.rank_shape", [0, -2.0, None], "calibration.promise.rank_shape is"),
        ("calibration.promise.wrong", [105, -1], "calibration.promise.wrong is"),
        ("calibration.promise.confirmed_ranks", [[1.0], [-1], "12", [True]], "calibration.promise.confirmed_ranks is"),
        ("origin", [None, [], "x"], "origin is"),
        ("origin.made_by", [{"a": "b"}, ["a"], 1, None, True], "origin.* is"),
    ],
)
def test_a_field_of_another_type_or_outside_its_range_is_named(path: str, values: list[object], words: str) -> None:
    for value in values:
        assert words in refusal(json.dumps(changed(path, value)))


def test_a_quantisation_without_an_int8_model_is_refused() -> None:
    content = changed("parity.int8", DELETED)
    del content["files"]["model.int8.onnx"]
    assert "quantisation is stated, but files names the models fp32." in refusal(json.dumps(content))
    content["quantisation"] = None
    assert parse_manifest(json.dumps(content), "x").quantisation is None


@pytest.mark.parametrize("field", [name for name in VALID if name != "calibration"])
def test_each_field_is_needed(field: str) -> None:
    assert f"it lacks {field}" in refusal(json.dumps(changed(field, DELETED)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "not the plain form"),
        ("a//b", "not the plain form"),
        ("a/./b", "not the plain form"),
        ("./a", "not the plain form"),
        ("a/", "not the plain form"),
        ("../outside", "outside the bundle"),
        ("a/../../outside", "outside the bundle"),
        ("a/..", "outside the bundle"),
        ("/etc/passwd", "outside the bundle"),
        ("//etc/passwd", "outside the bundle"),
        ("C:/x", "outside the bundle"),
        ("c:x", "outside the bundle"),
        ("a\\b", "a backslash or a control character"),
        ("a\nb", "a backslash or a control character"),
        ("a\0b", "a backslash or a control character"),
        ("\x1b[2Jx", "a backslash or a control character"),
        ("a\x7f", "a backslash or a control character"),
        ("manifest.json", "cannot hold its own digest"),
        ("signature.json", "cannot hold its own digest"),
        ("\udcff", "half a character"),
        ("x" * 256, "longer than 255 bytes per part"),
        ("é" * 128, "longer than 255 bytes per part"),
        ("x" * 5000, "longer than 255 bytes per part"),
        ("x/" * 600 + "x", "1024 in all"),
    ],
)
def test_a_name_that_is_not_the_one_form_of_a_path_below_is_refused(name: str, words: str) -> None:
    content = copy.deepcopy(VALID)
    content["files"][name] = DIGEST
    assert words in refusal(json.dumps(content))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"tiny', b'"\xff', "can't decode byte 0xff"),
        (b'"dim": 24', b'"dim": 24, "dim": 24', 'the key "dim" twice'),
        (b'"made_by"', b'"\\u001b": "a", "\\u001b"', 'the key "\\u001b" twice'),
        (b'"dim": 24', b'"dim": NaN', "NaN, which is no JSON number"),
        (b"0.96", b"-Infinity", "-Infinity, which is no JSON number"),
        (b"0.96", b"1e999", "parity.int8.min_cosine is Infinity, not a number in [-1, 1]"),
        (b'"dim": 24', b'"dim": ' + b"9" * 5000, "is not a bundle manifest"),
        (b"{", b"\xef\xbb\xbf{", "BOM"),
        (b'"dim": 24', b'"dim": ' + b"[" * 100_000, "recursion"),
    ],
)
def test_bytes_that_are_no_strict_json_are_one_line(old: bytes, new: bytes, words: str) -> None:
    assert old in CONTENT
    assert words in refusal(CONTENT.replace(old, new, 1))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"3", b'"x"', b"{}", b"{", "[" * 100_000])
def test_what_is_no_manifest_at_all_is_one_line(content: str | bytes) -> None:
    refusal(content)


def test_a_path_with_a_line_end_stays_on_one_line() -> None:
    with pytest.raises(BundleError) as caught:
        parse_manifest(b"{", "a\nb\x1b/manifest.json")
    assert str(caught.value).startswith("a\\nb\\x1b/manifest.json is not a bundle manifest")


def strictly(value: object, number: bool = False) -> object:
    """A JSON value whose parts compare by type too: 1 is neither 1.0 nor true. Of a fraction it may be an integer."""
    if isinstance(value, dict):
        return {key: strictly(part, key in NUMBERS or (number and key not in COUNTS)) for key, part in value.items()}
    if isinstance(value, list):
        return [strictly(part) for part in value]
    return strictly(float(value)) if number and type(value) is int else (type(value), value)


def check(content: str | bytes) -> None:
    """It opens with every value as it stands there, or it is refused in one line."""
    try:
        found = parse_manifest(content, "manifest.json")
    except BundleError as error:
        assert str(error).isprintable()
        return
    raw = json.loads(content)
    assert strictly(json.loads(found.to_json())) == strictly({key: raw.get(key) for key in VALID})
    assert parse_manifest(found.to_json(), "x") == found


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value below."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in items for place in [(*path, key), *places(part, (*path, key))]]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 40),
    st.floats(),
    st.floats(-1.1, 1.1),
    st.text(st.characters(), max_size=8),
    st.sampled_from([DIGEST, "int8", "float", "fp16", "model.fp16.onnx", "crop", "box", 10**400, 2**31, "a/../b"]),
)
KEYS = st.text(st.characters(), max_size=6) | st.sampled_from([*VALID, "fp16", "model.fp16.onnx", "a/b", "../a"])
VALUES = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(KEYS, part, max_size=3))


@given(st.sampled_from(places(VALID)), VALUES, KEYS, st.sampled_from(["replace", "delete", "rename", "add"]))
def test_any_change_of_a_value_opens_equal_or_is_refused_in_one_line(
    place: tuple[str | int, ...], value: object, key: str, change: str
) -> None:
    content = copy.deepcopy(VALID)
    *folders, last = place
    parent: Any = content
    for name in folders:
        parent = parent[name]
    if change == "replace" or isinstance(parent, list):
        parent[last] = value
    elif change == "add":
        parent[key] = value
    else:
        taken = parent.pop(last)
        if change == "rename":
            parent[key] = taken
    check(json.dumps(content))


@given(st.integers(0, len(CONTENT) - 1), st.integers(0, 12), st.binary(max_size=6))
def test_any_change_of_bytes_opens_equal_or_is_refused_in_one_line(start: int, length: int, new: bytes) -> None:
    check(CONTENT[:start] + new + CONTENT[start + length :])
