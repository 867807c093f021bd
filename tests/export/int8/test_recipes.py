from __future__ import annotations

import numpy as np
import onnx
import pytest

from dphr_infer.errors import ExportError
from export.int8.layers import find_layers
from export.int8.quantiser import Quantiser
from export.int8.recipes import RECIPES, recipe_for


def quantised_inputs(content: bytes) -> tuple[set[str], set[str]]:
    """Names of the nodes with an int8 activation, and of those with an int8 weight."""
    graph = onnx.load_model_from_string(content).graph
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    activations = {node.name for node in graph.node if node.input and node.input[0] in restored}
    return activations, {node.name for node in graph.node if len(node.input) > 1 and node.input[1] in restored}


def layers_of(exports: dict[str, bytes], family: str) -> tuple[onnx.GraphProto, dict[str, str]]:
    """The graph, and {layer: operator}."""
    model = onnx.load_model_from_string(exports[family])
    return model.graph, {layer.name: layer.op for layer in find_layers(model, recipe_for(model, family))}


def first_convolution(graph: onnx.GraphProto) -> str:
    return next(node.input[1] for node in graph.node if node.op_type == "Conv")


@pytest.mark.parametrize("family", [recipe.name for recipe in RECIPES])
def test_only_layers_read_int8_and_never_the_first_convolution_or_the_head(
    exports: dict[str, bytes], calibration: np.ndarray, family: str
) -> None:
    model = onnx.load_model_from_string(exports[family])
    recipe = recipe_for(model, family)
    assert recipe.name == family
    quantiser = Quantiser(exports[family], recipe, calibration)
    activations, weights = quantised_inputs(quantiser.build())
    ops = {node.name: node.op_type for node in model.graph.node}
    assert {ops[name] for name in activations | weights} == set(recipe.ops)
    assert weights == {model.graph.node[layer.node].name for layer in quantiser.details}
    assert activations == {model.graph.node[layer.node].name for layer in quantiser.details if not layer.weights_only}
    assert first_convolution(model.graph) not in {layer.weight for layer in quantiser.details}


def test_a_vit_quantises_its_four_linear_maps_a_block_and_no_attention_product(exports: dict[str, bytes]) -> None:
    graph, layers = layers_of(exports, "vit")
    products = [node for node in graph.node if node.op_type == "MatMul"]
    blocks = len([node for node in graph.node if node.op_type == "Softmax"])
    assert set(layers.values()) == {"MatMul"}
    assert len(layers) == 4 * blocks
    assert len(products) == 6 * blocks


def test_a_convnext_quantises_linear_maps_and_downsampling_and_no_depthwise_convolution(
    exports: dict[str, bytes],
) -> None:
    graph, layers = layers_of(exports, "convnext")
    depthwise = [node for node in graph.node if node.op_type == "Conv" and "conv_dw" in node.input[1]]
    assert sum(op == "MatMul" for op in layers.values()) == 2 * len(depthwise)
    assert {name.rpartition(".")[0] for name, op in layers.items() if op == "Conv"} == {
        f"stages.{stage}.downsample" for stage in (1, 2, 3)
    }


def test_an_efficientnet_quantises_every_convolution_but_of_squeeze_and_excite_the_weights_alone(
    exports: dict[str, bytes],
) -> None:
    model = onnx.load_model_from_string(exports["efficientnet"])
    layers = find_layers(model, recipe_for(model, "efficientnet"))
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(layers) == len(convolutions) - 1
    squeezes = {layer.name for layer in layers if ".se." in layer.name}
    assert squeezes == {f"blocks.{stage}.0.se.conv_{kind}" for stage in (3, 4) for kind in ("reduce", "expand")}
    assert {layer.name for layer in layers if layer.weights_only} == squeezes


def test_a_resnet_quantises_every_convolution_but_the_first(exports: dict[str, bytes]) -> None:
    graph, layers = layers_of(exports, "resnet")
    assert list(layers)[:3] == ["conv1.3", "conv1.6", "layer1.0.conv1"]
    assert len(layers) == sum(node.op_type == "Conv" for node in graph.node) - 1
    assert "layer2.0.downsample.1" in layers


def test_an_unknown_family_is_refused_with_the_families_and_the_way_out(exports: dict[str, bytes]) -> None:
    model = onnx.load_model_from_string(exports["resnet"])
    for value in model.graph.initializer:
        value.name = value.name.replace("layer", "tier")
    with pytest.raises(ExportError, match=r"tier_net is of no family .* convnext, efficientnet, resnet, vit .*fp16"):
        recipe_for(model, "tier_net")
