"""What is quantised in each family of backbones, and what never is.

All recipes share four rules, which follow from the half precision that they start from (export/graph/to_onnx.py):

    A layer is a convolution, or a matrix product with a constant, whose weight is a half. The first convolution and the
    head are float32 there, so they are never layers.
    Weights are int8 per output channel, symmetric. Activations are int8 per tensor, symmetric: TensorRT takes no other
    zero point than 0. They are cut where the squared error of the values seen is least (see calibration.py).
    Only the inputs of a layer are quantised. Its output, its bias, residual sums, LayerNorm, softmax, GELU, SiLU and
    hard-swish stay half, and so does a product of two activations, such as queries by keys.
    A layer that is given back has the half-precision export's weight again, bit for bit.

A family is told by the parameter names that the export keeps, because timm's model names say too little: a family has
hundreds of members, and one prefix ("test_", "tf_", "deit") serves several.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

from dphr_infer.errors import ExportError

BACKBONE = "encoder.backbone."


@dataclass(frozen=True, slots=True)
class Recipe:
    """The rules of one family. Patterns are regular expressions that are searched for in a layer's name.

    Attributes:
        name: of the family; travels in the manifest.
        parameter: a parameter with such a name makes a model a member.
        ops: ONNX operators that are layers when their weight is a constant half.
        half: layers that stay half precision.
        weights_only: layers whose weights are stored as int8 and whose arithmetic stays half.
    """

    name: str
    parameter: str
    ops: tuple[str, ...]
    half: tuple[str, ...]
    weights_only: tuple[str, ...]

    def keeps_half(self, layer: str) -> bool:
        """True where the layer is not quantised at all."""
        return any(re.search(pattern, layer) for pattern in self.half)

    def keeps_activations(self, layer: str) -> bool:
        """True where only the layer's weights are quantised."""
        return any(re.search(pattern, layer) for pattern in self.weights_only)


RECIPES = (
    # The 7x7 depthwise convolution reads the residual stream, whose few large channels one scale cannot serve, is
    # limited by memory and not by arithmetic, and holds 1 % of the weights.
    Recipe(
        name="convnext",
        parameter=r"^stages\.\d+\.blocks\.\d+\.conv_dw\.",
        ops=("Conv", "MatMul"),
        half=(r"\.conv_dw$",),
        weights_only=(),
    ),
    # EfficientNet, its Lite and V2 forms, MobileNet V2 and V3. Squeeze and excite multiplies whole channels, so an
    # error there touches every pixel; its arithmetic is nothing, but it holds a third of MobileNetV3's weights.
    Recipe(
        name="efficientnet",
        parameter=r"^blocks\.\d+\.\d+\.conv",
        ops=("Conv",),
        half=(),
        weights_only=(r"\.se\.",),
    ),
    Recipe(
        name="resnet",
        parameter=r"^layer\d+\.\d+\.conv\d\.",
        ops=("Conv",),
        half=(),
        weights_only=(r"\.se\.",),
    ),
    # Only the linear maps qkv, proj, fc1 and fc2: their weights are the constants among a ViT's matrix products.
    Recipe(
        name="vit",
        parameter=r"^blocks\.\d+\.attn\.",
        ops=("MatMul",),
        half=(),
        weights_only=(),
    ),
)


def recipe_for(model: onnx.ModelProto, encoder_name: str) -> Recipe:
    """The recipe of the family that a model belongs to.

    Args:
        model: the half-precision export.
        encoder_name: for the error's words.

    Raises:
        ExportError: it belongs to none.
    """
    parameters = [value.name.removeprefix(BACKBONE) for value in model.graph.initializer]
    for recipe in RECIPES:
        if any(re.match(recipe.parameter, name) for name in parameters):
            return recipe
    raise ExportError(
        f"{encoder_name} is of no family with an int8 recipe: {', '.join(recipe.name for recipe in RECIPES)} "
        "(efficientnet serves MobileNet V2 and V3 too). Ship its fp16 model, or train an encoder of one of these."
    )
