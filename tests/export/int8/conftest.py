"""Hand-placed half-precision graphs in the export's form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


class SmallGraph:
    """uint8 (B, side, side, 3) -> half (B, 3, side, side) -> the layers that a test adds -> float32 embeddings."""

    def __init__(self, side: int = 2) -> None:
        self.side = side
        self.constants: list[onnx.TensorProto] = []
        self.nodes = [
            helper.make_node("Cast", ["images"], ["wide"], name="wide", to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["wide"], ["planes"], name="planes", perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["planes"], ["pixels"], name="pixels", to=TensorProto.FLOAT16),
        ]
        self.last = "pixels"

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def add(self, op: str, *others: str, name: str = "", **attributes: object) -> SmallGraph:
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.last, *others], [output], name=name or output, **attributes))
        self.last = output
        return self

    def conv(self, name: str, weight: np.ndarray, bias: np.ndarray) -> SmallGraph:
        """A 1x1 convolution; weight (out, in)."""
        w = self.constant(f"encoder.backbone.{name}.weight", weight.astype(np.float16)[:, :, None, None])
        return self.add("Conv", w, self.constant(f"encoder.backbone.{name}.bias", bias.astype(np.float16)))

    def linear(self, name: str, weight: np.ndarray) -> SmallGraph:
        """Mean over the pixels, then a linear map; weight (in, out)."""
        self.add("ReduceMean", self.constant(f"{name}_axes", np.array([2, 3], np.int64)), keepdims=0)
        return self.add("MatMul", self.constant(f"{name}_values", weight.astype(np.float16)), name=name)

    def to_bytes(self, dim: int, unit_length: bool = False, opset: int = 18) -> bytes:
        self.add("Cast", to=TensorProto.FLOAT)
        if unit_length:
            whole = self.last
            self.add("ReduceL2", self.constant("axis", np.array([1], np.int64)), keepdims=1)
            self.nodes.append(helper.make_node("Div", [whole, self.last], ["length_1"]))
            self.last = "length_1"
        self.nodes[-1].output[0] = "embeddings"
        shape = ["batch", self.side, self.side, 3]
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", dim])],
            self.constants,
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        ).SerializeToString()


@pytest.fixture(scope="session")
def small_graph() -> Callable[..., SmallGraph]:
    return SmallGraph
