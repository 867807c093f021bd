from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.errors import BundleError
from dphr_infer.files.manifest import Manifest, Parity, Quantisation, parse_manifest
from dphr_infer.images.preprocess import Preprocess

DIGEST = "ab" * 32
MANIFEST = Manifest(
    encoder="tiny é",
    dim=24,
    max_batch=16,
    preprocess=Preprocess(32, 48, "box", "stretch"),
    files={"model.fp32.onnx": DIGEST, "model.int8.onnx": DIGEST, "selftest/images/0.png": DIGEST},
    parity={"fp32": Parity(1.0, 1.0, 0.0, 0.0, 3), "int8": Parity(0.96, 0.99, 0.004, -0.001, 240)},
    origin={"made_by": "tests"},
    quantisation=Quantisation("mean", "int8", DIGEST, 64, ("stem", "head")),
)
VALID: dict[str, Any] = json.loads(MANIFEST.to_json())
CONTENT = MANIFEST.to_json().encode()
DELETED = object()


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
    for place in ("preprocess", "parity.fp32", "quantisation"):
        assert 'has a field "later", which is unknown' in refusal(json.dumps(changed(f"{place}.later", 1)))


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


@pytest.mark.parametrize("field", list(VALID))
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


def strictly(value: object) -> object:
    """A JSON value whose parts compare by type too: 1 is neither 1.0 nor true. A fraction may be an integer."""
    if isinstance(value, dict):
        fractions = ("min_cosine", "mean_cosine", "recall_drop", "ap_drop")
        return {
            key: strictly(float(part) if key in fractions and type(part) is int else part)
            for key, part in value.items()
        }
    return [strictly(part) for part in value] if isinstance(value, list) else (type(value), value)


def check(content: str | bytes) -> None:
    """It opens with every value as it stands there, or it is refused in one line."""
    try:
        found = parse_manifest(content, "manifest.json")
    except BundleError as error:
        assert str(error).isprintable()
        return
    raw = json.loads(content)
    assert strictly(json.loads(found.to_json())) == strictly({key: raw[key] for key in VALID})
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
