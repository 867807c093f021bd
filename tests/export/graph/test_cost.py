from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from dphr_infer.errors import ExportError
from export.graph.cost import count_cost

F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16


def write(path: Path, nodes: list, inputs: dict, outputs: dict, weights: dict, kind: int = F32) -> Path:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [
            numpy_helper.from_array(value if isinstance(value, np.ndarray) else np.zeros(value, np.float32), name)
            for name, value in weights.items()
        ],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def test_a_convolution_is_two_operations_a_weight_an_output_value(tmp_path: Path) -> None:
    """3 -> 8 channels, 3x3, stride 2, padding 1 on 16x16: 8x8 outputs of 27 products each, for 2 images.

    Then 8 groups of one channel, 3x3: 9 products each. 8x8x8 values lie between, written once and read once.
    """
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["y", "v"], ["z"], group=8, pads=[1, 1, 1, 1]),
    ]
    weights = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 1, 3, 3)}
    cost = count_cost(write(tmp_path / "m.onnx", nodes, {"x": ["n", 3, 16, 16]}, {"z": None}, weights), batch=2)
    dense, grouped = 2 * 8 * 64 * 27, 2 * 8 * 64 * 9
    assert cost.flops_by_operator == {"Conv": 2 * (dense + grouped)}
    assert cost.weight_bytes == 4 * (8 * 27 + 8 + 8 * 9)
    assert cost.io_bytes == 4 * 2 * (3 * 256 + 8 * 64)
    assert cost.between_bytes == 4 * 2 * 2 * 8 * 64
    assert (cost.least_bytes, cost.most_bytes) == (
        cost.weight_bytes + cost.io_bytes,
        cost.weight_bytes + cost.io_bytes + cost.between_bytes,
    )


def test_two_groups_halve_the_products(tmp_path: Path) -> None:
    """4 -> 6 channels in 2 groups, 1x1 on 5x5: each output sums 2 inputs."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2)
    cost = count_cost(write(tmp_path / "m.onnx", [node], {"x": ["n", 4, 5, 5]}, {"y": None}, {"w": (6, 2, 1, 1)}), 1)
    assert cost.flops == 2 * 6 * 25 * 2


def test_products_of_matrices_count_their_batches_and_gemm_its_transposes(tmp_path: Path) -> None:
    """(n, 4, 5, 6) x (n, 4, 6, 7): 2*4*5*6*7 an image. Gemm (3, n)^T x (9, 3)^T: 2*3*9 an image."""
    nodes = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    inputs = {"a": ["n", 4, 5, 6], "b": ["n", 4, 6, 7]}
    assert count_cost(write(tmp_path / "p.onnx", nodes, inputs, {"c": None}, {}), 3).flops == 3 * 2 * 4 * 5 * 6 * 7
    gemm = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transA=1, transB=1)]
    path = write(tmp_path / "g.onnx", gemm, {"x": [3, 10]}, {"y": None}, {"w": (9, 3), "b": (9,)})
    assert count_cost(path, 3).flops_by_operator == {"Gemm": 2 * 10 * 3 * 9}
    plain = [helper.make_node("Gemm", ["x", "w"], ["y"])]
    path = write(tmp_path / "h.onnx", plain, {"x": ["n", 3]}, {"y": None}, {"w": (3, 9)})
    assert count_cost(path, 10).flops == 10 * 2 * 3 * 9


def test_a_transposed_convolution_counts_what_each_input_adds(tmp_path: Path) -> None:
    """2 -> 5 channels, 2x2, stride 2 on 3x3: each of 2*9 inputs adds to 5*4 outputs."""
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    path = write(tmp_path / "m.onnx", [node], {"x": ["n", 2, 3, 3]}, {"y": None}, {"w": (2, 5, 2, 2)})
    assert count_cost(path, 1).flops == 2 * 2 * 9 * 5 * 4


def test_half_precision_halves_the_bytes_and_not_the_operations(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    wide = write(tmp_path / "a.onnx", [node], {"x": ["n", 8]}, {"y": None}, {"w": np.zeros((8, 4), np.float32)})
    half = write(tmp_path / "b.onnx", [node], {"x": ["n", 8]}, {"y": None}, {"w": np.zeros((8, 4), np.float16)}, F16)
    assert count_cost(half, 2).flops == count_cost(wide, 2).flops == 2 * 2 * 8 * 4
    assert 2 * count_cost(half, 2).least_bytes == count_cost(wide, 2).least_bytes


def test_a_view_moves_no_bytes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": ["n", 6]}, {"y": None}, {"shape": np.array([-1, 2, 3])})
    cost = count_cost(path, 4)
    assert (cost.flops, cost.between_bytes) == (0, 2 * 4 * 6 * 4)


def test_what_cannot_be_counted_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="its shapes cannot be inferred"):
        count_cost(tmp_path / "no.onnx", 1)
    with pytest.raises(ExportError, match="count at least 1 image"):
        count_cost(tmp_path / "no.onnx", 0)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = write(tmp_path / "free.onnx", [node], {"x": ["n", "m", 8]}, {"y": None}, {"w": (8, 4)})
    with pytest.raises(ExportError, match=r"the shape of 'x' of MatMul .* is not known"):
        count_cost(path, 1)
