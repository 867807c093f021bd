"""Finds the layers of a half-precision export that a recipe quantises, and names them after the encoder's modules."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import onnx

from dphr_infer.errors import ExportError
from export.int8.recipes import BACKBONE, Recipe


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution or linear map.

    Attributes:
        name: the encoder's module, such as "blocks.1.0.conv_pw"; the node's name where the export kept none.
        op: ONNX operator, "Conv" or "MatMul".
        node: index in the graph.
        activation, weight: names of its two inputs.
        axis: of the weight's output channels.
        weights_only: True where its activation stays half.
        weight_bytes: of its weight as int8; giving it back to half precision costs as many again.
    """

    name: str
    op: str
    node: int
    activation: str
    weight: str
    axis: int
    weights_only: bool
    weight_bytes: int


def _module(parameter: str) -> str:
    return parameter.removeprefix(BACKBONE).rpartition(".")[0]


def _linear_name(node: onnx.NodeProto, bias_of: dict[str, str]) -> str:
    """A linear map's weight loses its name when the export transposes it; its bias keeps one."""
    return _module(bias_of[node.output[0]]) if node.output[0] in bias_of else node.name


def _biases(model: onnx.ModelProto) -> dict[str, str]:
    """{tensor: bias that is added to it}, for biases with one reader: the export merges parameters of equal values."""
    readers = Counter(name for node in model.graph.node for name in node.input)
    biases = {value.name for value in model.graph.initializer if value.name.endswith(".bias")}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Add" and node.input[1] in biases and readers[node.input[1]] == 1:
            found[node.input[0]] = node.input[1]
    return found


def find_layers(model: onnx.ModelProto, recipe: Recipe) -> tuple[Layer, ...]:
    """The layers that `recipe` quantises, in graph order; a name that occurs again ends with #2, #3 and so on.

    Raises:
        ExportError: there is none.
    """
    halves = {w.name: w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT16 and len(w.dims) > 1}
    bias_of = _biases(model)
    seen: Counter[str] = Counter()
    layers = []
    for index, node in enumerate(model.graph.node):
        if node.op_type not in recipe.ops or node.input[1] not in halves:
            continue
        weight = halves[node.input[1]]
        name = _module(weight.name) if node.op_type == "Conv" else _linear_name(node, bias_of)
        if recipe.keeps_half(name):
            continue
        seen[name] += 1
        layers.append(
            Layer(
                name=name if seen[name] == 1 else f"{name}#{seen[name]}",
                op=node.op_type,
                node=index,
                activation=node.input[0],
                weight=weight.name,
                axis=0 if node.op_type == "Conv" else len(weight.dims) - 1,
                weights_only=recipe.keeps_activations(name),
                weight_bytes=math.prod(weight.dims),
            )
        )
    if not layers:
        raise ExportError(
            f"The model has no layer that the {recipe.name} recipe quantises: no {' or '.join(recipe.ops)} with a "
            "constant weight in half precision. Give the fp16 export of such an encoder."
        )
    return tuple(layers)
