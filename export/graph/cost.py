"""What one batch costs in an ONNX graph: floating-point operations and bytes, counted from the shapes.

Counted are Conv, ConvTranspose, MatMul, Gemm and their integer forms, two operations for each multiplication with its
addition. All others (activations, normalisations, pooling) are a few operations a value; they move bytes, and are in
`most_bytes`. Shapes come from ONNX shape inference for the stated batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dphr_infer.errors import ExportError, MissingPackageError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")
_PRODUCTS = ("MatMul", "MatMulInteger", "QLinearMatMul")
# These give a view or a constant: no bytes move.
_FREE = ("Constant", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Shape", "Dropout")
_SUBGRAPH_OPERATORS = ("If", "Loop", "Scan")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GraphCost:
    """The cost of one batch.

    Attributes:
        flops: two for each multiplication and addition of the counted operators.
        weight_bytes: of the graph's constants, as stored.
        io_bytes: of its inputs and outputs.
        between_bytes: tensors between two operators, written once and read once by each reader.
        flops_by_operator: {operator: flops}.
    """

    batch: int
    flops: int
    weight_bytes: int
    io_bytes: int
    between_bytes: int
    flops_by_operator: dict[str, int]

    @property
    def least_bytes(self) -> int:
        """What must move in any case: weights, inputs and outputs, each once."""
        return self.weight_bytes + self.io_bytes

    @property
    def most_bytes(self) -> int:
        """What moves when no two operators are fused and no cache holds a tensor."""
        return self.least_bytes + self.between_bytes


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: Shape
    value_bytes: float

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return math.ceil(self.size * self.value_bytes)


def count_cost(model_path: Path, batch: int) -> GraphCost:
    """Count a model's cost at one batch size.

    Args:
        model_path: an .onnx file that holds its weights and whose inputs have a free first dimension.
        batch: that dimension, at least 1.

    Raises:
        ExportError: not an ONNX file, an operator with a subgraph, or a shape that cannot be inferred.
        MissingPackageError: onnx is not installed.
    """
    if batch < 1:
        raise ExportError(f"A batch of {batch} has no cost: count at least 1 image.")
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingPackageError("onnx", "export", "Counting a model's operations") from error
    try:
        model = onnx.load_model(model_path)
        _fix_batch(model, batch)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (OSError, DecodeError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{model_path}: its shapes cannot be inferred ({' '.join(str(error).split())[:200]})."
        ) from error
    return _count(model.graph, batch, model_path)


def _fix_batch(model: ModelProto, batch: int) -> None:
    """Name the batch in the inputs, and forget what the file says of later shapes: they are inferred again."""
    weights = {weight.name for weight in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _tensors(graph: GraphProto) -> dict[str, _Tensor]:
    from onnx import helper

    def value_bytes(kind: int) -> float:
        return helper.tensor_dtype_to_np_dtype(kind).itemsize

    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shape = tuple(dim.dim_value for dim in dims)
            found[value.name] = _Tensor(shape, value_bytes(value.type.tensor_type.elem_type))
    for weight in graph.initializer:
        found[weight.name] = _Tensor(tuple(weight.dims), value_bytes(weight.data_type))
    return found


def _count(graph: GraphProto, batch: int, model_path: Path) -> GraphCost:
    tensors = _tensors(graph)
    weights = {weight.name for weight in graph.initializer}
    ends = {value.name for value in graph.output} | {value.name for value in graph.input} - weights

    def tensor(name: str, node: NodeProto) -> _Tensor:
        if name not in tensors:
            raise ExportError(
                f"{model_path}: the shape of {name!r} of {node.op_type} {node.name!r} is not known, so its cost cannot "
                "be counted. Export the model with fixed sizes except the batch."
            )
        return tensors[name]

    flops: dict[str, int] = {}
    between = 0
    for node in graph.node:
        if node.op_type in _SUBGRAPH_OPERATORS:
            raise ExportError(f"{model_path} holds {node.op_type} {node.name!r}: how often it runs is not known.")
        inputs = [tensor(name, node) for name in node.input if name]
        outputs = [tensor(name, node) for name in node.output if name]
        counted = node_flops(node, [one.shape for one in inputs], outputs[0].shape)
        if counted:
            flops[node.op_type] = flops.get(node.op_type, 0) + counted
        if node.op_type not in _FREE:
            moved = [name for name in (*node.input, *node.output) if name and name not in weights | ends]
            between += sum(tensors[name].n_bytes for name in moved)
    return GraphCost(
        batch=batch,
        flops=sum(flops.values()),
        weight_bytes=sum(tensors[name].n_bytes for name in weights),
        io_bytes=sum(tensors[name].n_bytes for name in ends if name in tensors),
        between_bytes=between,
        flops_by_operator=flops,
    )


def node_flops(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    """Operations of one node; 0 for an operator that is not counted.

    Args:
        inputs: shapes of the node's given inputs, in order.
        output: shape of its first output.
    """
    if node.op_type in _CONVOLUTIONS:
        # A weight is (out, in / groups, kernel...): each output value sums over all but its first dimension.
        weight = inputs[3 if node.op_type == "QLinearConv" else 1]
        return 2 * math.prod(output) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        # A weight is (in, out / groups, kernel...): each input value adds to so many outputs.
        return 2 * math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if node.op_type in _PRODUCTS:
        return 2 * math.prod(output) * inputs[0][-1]
    if node.op_type == "Gemm":
        transposed = any(item.name == "transA" and item.i for item in node.attribute)
        return 2 * math.prod(output) * inputs[0][0 if transposed else 1]
    return 0
