from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.errors import ExportError
from export.int8.calibration import INT8_MAX, check_images, choose_scale, count_magnitudes, to_half_scale
from export.request import MIN_CALIBRATION_IMAGES

EYE = np.eye(3)


def count(values: np.ndarray) -> np.ndarray:
    bits = np.abs(values.astype(np.float16)).view(np.uint16)
    return np.bincount(bits, minlength=1 << 15)


def squared_error(values: np.ndarray, scale: float) -> float:
    """The plain reference: each value through int8 and back."""
    return float(sum((v - min(max(round(v / scale), -127), 127) * scale) ** 2 for v in values.tolist()))


def test_magnitudes_are_counted_over_all_images_and_without_the_sign(small_graph: Callable) -> None:
    graph = small_graph().conv("a", np.array([[1, 0, 0], [-1, 0, 0], [0, 0, 0.5]]), np.zeros(3)).linear("b", EYE)
    images = np.zeros((5, 2, 2, 3), np.uint8)
    images[0, :, :, 0] = 7
    images[4, 0, 1, 2] = 3
    model = onnx.load_model_from_string(graph.to_bytes(3))
    found = count_magnitudes(model, ["Conv_3"], images)["Conv_3"]
    seen = {float(np.uint16(bits).view(np.float16)): int(found[bits]) for bits in np.flatnonzero(found)}
    assert seen == {0.0: 5 * 12 - 9, 7.0: 8, 1.5: 1}


def test_values_that_int8_holds_exactly_are_cut_at_the_largest_magnitude_seen() -> None:
    assert choose_scale(count(np.array([0.0, -254.0, 4.0]))) == 2.0


def test_a_tensor_that_was_always_zero_gets_the_scale_one() -> None:
    assert choose_scale(count(np.zeros(4))) == 1.0


def test_the_scale_cuts_one_outlier_among_many_small_values() -> None:
    small = np.random.default_rng(0).normal(0, 1, 500_000).astype(np.float16)
    scale = float(choose_scale(count(np.append(small, np.float16(64)))))
    assert 4 / 127 < scale < 33 / 127, "the outlier alone would be worth 64 / 127"


@given(st.lists(st.floats(-1000, 1000, width=16), min_size=1, max_size=40))
def test_the_scale_is_never_worse_than_that_of_the_largest_magnitude_by_a_plain_sum(values: list[float]) -> None:
    array = np.array(values, np.float16)
    largest = np.array([np.abs(array).max()], np.float64)
    chosen, by_max = float(choose_scale(count(array))), float(to_half_scale(largest / INT8_MAX)[0])
    assert chosen <= by_max
    assert squared_error(array, chosen) <= squared_error(array, by_max) * (1 + 1e-9)


@given(st.floats(0, 500))
def test_a_half_scale_is_never_smaller_than_the_scale(scale: float) -> None:
    half = float(to_half_scale(np.array([scale]))[0])
    assert half >= scale
    assert scale == 0 or half <= scale * (1 + 2**-10) + 2**-24


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((20, 4, 2, 3), np.uint8), r"uint8 \(20, 4, 2, 3\); the model takes uint8 \(n, 2, 2, 3\)"),
        (np.zeros((20, 2, 2, 3), np.float32), r"float32 \(20, 2, 2, 3\); the model takes uint8"),
        (np.zeros((2, 2, 3), np.uint8), r"uint8 \(2, 2, 3\); the model takes"),
        (np.zeros((MIN_CALIBRATION_IMAGES - 1, 2, 2, 3), np.uint8), "15 calibration images; at least 16"),
    ],
)
def test_images_that_do_not_fit_or_do_not_suffice_are_refused(
    small_graph: Callable, images: np.ndarray, words: str
) -> None:
    model = onnx.load_model_from_string(small_graph().conv("a", EYE, np.zeros(3)).linear("b", EYE).to_bytes(3))
    with pytest.raises(ExportError, match=words):
        check_images(model, images)


@pytest.mark.parametrize("bias", [np.inf, np.nan])
def test_a_value_that_is_not_finite_names_its_tensor_and_the_images(small_graph: Callable, bias: float) -> None:
    graph = small_graph().conv("a", EYE, np.array([0, bias, 0])).linear("b", EYE)
    with pytest.raises(ExportError, match="Conv_3 holds values that are not finite on the calibration images 0 to 3"):
        count_magnitudes(onnx.load_model_from_string(graph.to_bytes(3)), ["Conv_3"], np.zeros((16, 2, 2, 3), np.uint8))
