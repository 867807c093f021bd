"""A half-precision export -> the same graph with int8 layers, as explicit quantise/dequantise pairs.

    activation (half) -> Cast -> QuantizeLinear -> int8 -> DequantizeLinear -> half -.
                         float32 scale                     half scale                Conv or MatMul -> half, as before
    weight "int8":  int8 constant -> DequantizeLinear -> half ----------------------'
    weight "float": half constant -> QuantizeLinear -> DequantizeLinear -> half, the same numbers

What is not quantised keeps its nodes, names and constants; both scales of a pair are one number, a half.

Why the cast. Where a convolution with a bias leads to QuantizeLinear through nothing but Relu or Clip, ONNX Runtime
(1.31, from optimisation level 1, transformer WeightBiasQuantization) replaces the float bias by round(bias / scale) in
half precision, which overflows: tf_efficientnet_lite0 fell to a mean cosine of 0.42, from 0.996 without optimisation.
A cast ends that pattern, and float32 quantises without the rounding of a half division.

Why opset 19. Half scales came with it; onnx's own converter raises the export's 18, and returned every node and
constant of the four families unchanged (of the operators in them, 19 gave Cast, Reshape and Shape more types and
AveragePool dilations). TensorRT 10.3 reads up to 20.

What TensorRT-RTX 1.7.1 made of it, strongly typed, built without a GPU for mobilenetv3_large_100, convnext_tiny,
vit_small_patch16_224, tf_efficientnet_lite0 and resnet50 at 64 px: it takes both forms of weights, with equal layers.
Its layer report shows every pair inside its layer: convolutions int8 -> float32, linear maps int8 -> half. Without the
cast the layers are the same; float32 scales with a cast after them too (opset 18) give linear maps int8 -> float32.
TensorRT 10 and 8 could not be tried here: "float" is for one that refuses int8 constants.

It is made for TensorRT. ONNX Runtime on a CPU restores the weights at every run and multiplies in float32:
tf_efficientnet_lite0 at 128 px took 23 ms an image in int8, 4 in fp32 (best of 30, one thread).

onnxruntime's quantize_static makes such pairs too. It was not taken: it has no layers of which only the weights are
int8, puts no cast before a pair, and its calibrators fall short (see calibration.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, version_converter

from dphr_infer.errors import ExportError
from export.int8.calibration import INT8_MAX, check_images, choose_scale, count_magnitudes, to_half_scale
from export.int8.layers import Layer, find_layers
from export.int8.recipes import Recipe
from export.request import Weights

MIN_OPSET = 18
OPSET = 19
_ZERO = "int8_zero"


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedWeight:
    """int8 values of -127..127 in the weight's shape, and a float16 scale per output channel."""

    values: NDArray[np.int8]
    scale: NDArray[np.float16]


def quantise_weight(weight: NDArray[np.float16], axis: int) -> QuantisedWeight:
    """Round a weight to int8, symmetric, one scale for each index of `axis`; ties go to the even integer."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    wide = weight.astype(np.float64)
    scale = to_half_scale(np.abs(wide).max(axis=others, keepdims=True) / INT8_MAX)
    values = np.rint(wide / scale.astype(np.float64)).astype(np.int8)
    return QuantisedWeight(values, scale.ravel())


def _raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next(entry.version for entry in model.opset_import if entry.domain == "")
    if version < MIN_OPSET:
        raise ExportError(
            f"The model's opset is {version}; int8 starts from {MIN_OPSET} or later, because LayerNorm and half scales "
            "need it. Export it again with dphr-export."
        )
    return model if version >= OPSET else version_converter.convert_version(model, OPSET)


class Quantiser:
    """Builds int8 models of one half-precision export; calibrates once.

    Attributes:
        recipe: that was given.
        weights: that was given.
        details: the layers that the recipe quantises, in graph order.
        layers: their names.

    Args:
        model: the export of `to_onnx` in fp16.
        recipe: of the model's family, see `recipe_for`.
        calibration: uint8 (n, H, W, 3), n >= 16, real images at model size.
        weights: "int8" stores them so; "float" stores halves behind pairs, for a TensorRT that demands it.

    Raises:
        ExportError: the opset is too low, the model has no layer to quantise, the images are of another size or dtype
            or too few, or an activation is not finite on them.
    """

    def __init__(self, model: bytes, recipe: Recipe, calibration: NDArray[np.uint8], weights: Weights = "int8") -> None:
        self.recipe, self.weights = recipe, weights
        self._model = _raise_opset(onnx.load_model_from_string(model))
        self.details = find_layers(self._model, recipe)
        self.layers = tuple(layer.name for layer in self.details)
        check_images(self._model, calibration)
        tensors = list(dict.fromkeys(layer.activation for layer in self.details if not layer.weights_only))
        counts = count_magnitudes(self._model, tensors, calibration)
        self._scales = {name: choose_scale(counts[name]) for name in tensors}
        constants = {value.name: value for value in self._model.graph.initializer}
        self._weights = {
            layer.weight: quantise_weight(numpy_helper.to_array(constants[layer.weight]), layer.axis)
            for layer in self.details
        }

    def build(self, float_layers: Collection[str] = ()) -> bytes:
        """The model with every layer in int8 but `float_layers`; equal arguments give equal bytes.

        Args:
            float_layers: names from `layers` that stay half precision.

        Returns:
            An ONNX file that passes the checker.

        Raises:
            ExportError: a name is not one of `layers`.
        """
        if unknown := sorted(set(float_layers) - set(self.layers)):
            raise ExportError(
                f"The model has no int8 layer {unknown[0]}; its {len(self.layers)} layers begin with "
                f"{', '.join(self.layers[:3])}."
            )
        quantised = {layer.node: layer for layer in self.details if layer.name not in set(float_layers)}
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        pairs = _Pairs()
        for index, node in enumerate(model.graph.node):
            if index in quantised:
                layer = quantised[index]
                if not layer.weights_only:
                    node.input[0] = pairs.add_activation(layer.activation, self._scales[layer.activation])
                node.input[1] = pairs.add_weight(layer, self._weights[layer.weight], self.weights)
            pairs.nodes.append(node)
        _replace_graph(model.graph, pairs)
        content: bytes = model.SerializeToString(deterministic=True)
        onnx.checker.check_model(content, full_check=True)
        return content


class _Pairs:
    """Collects the nodes of a graph and the pairs between them; a tensor that two layers read gets one pair."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def _constant(self, name: str, values: NDArray[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def _node(self, op: str, inputs: list[str], output: str, **attributes: int) -> str:
        node = helper.make_node(op, inputs, [output], name=f"{op}/{output}")
        node.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(attributes.items()))
        self.nodes.append(node)
        return output

    def add_activation(self, tensor: str, scale: np.float16) -> str:
        """Pass a tensor through int8; returns the name of what comes out."""
        restored, scale_name = f"{tensor}/restored", f"{tensor}/scale"
        if scale_name not in self.constants:
            self._constant(scale_name, np.array(scale, np.float16))
            wide_scale = self._constant(f"{tensor}/wide_scale", np.array(scale, np.float32))
            zero = self._constant(_ZERO, np.array(0, np.int8))
            wide = self._node("Cast", [tensor], f"{tensor}/wide", to=onnx.TensorProto.FLOAT)
            stored = self._node("QuantizeLinear", [wide, wide_scale, zero], f"{tensor}/int8")
            self._node("DequantizeLinear", [stored, scale_name, zero], restored)
        return restored

    def add_weight(self, layer: Layer, weight: QuantisedWeight, stored_as: Weights) -> str:
        """Put a weight behind a DequantizeLinear; returns the name of what comes out."""
        restored, scale_name, int8 = f"{layer.weight}/restored", f"{layer.weight}/scale", f"{layer.weight}/int8"
        if scale_name not in self.constants:
            self._constant(scale_name, weight.scale)
            zero = self._constant(f"{layer.weight}/zero", np.zeros_like(weight.scale, np.int8))
            if stored_as == "int8":
                self._constant(int8, weight.values)
            else:
                self._node("QuantizeLinear", [layer.weight, scale_name, zero], int8, axis=layer.axis)
            self._node("DequantizeLinear", [int8, scale_name, zero], restored, axis=layer.axis)
        return restored


def _replace_graph(graph: onnx.GraphProto, pairs: _Pairs) -> None:
    """Set the nodes, add the constants, and drop those that nothing reads any more."""
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in pairs.nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [value for value in graph.initializer if value.name in read]
    constants = [onnx.TensorProto.FromString(value.SerializeToString()) for value in kept]
    del graph.initializer[:]
    graph.initializer.extend([*constants, *pairs.constants.values()])
