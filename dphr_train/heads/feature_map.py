"""What every head asks of a feature map before it reads one."""

from __future__ import annotations

from torch import Tensor

from dphr_infer.errors import ConfigError


def require_feature_map(features: Tensor, reader: str, least: int = 1) -> None:
    """Refuse features that are no map, or too small a map.

    Args:
        features: (B, C, h, w).
        reader: who needs the map, for the message.
        least: the smallest height and width that the reader can take.

    Raises:
        ConfigError: not 4-d, or h or w below `least`.
    """
    if features.ndim != 4:
        raise ConfigError(
            f"{reader} needs a feature map (4-d), but the network gives {features.ndim}-d features: choose a "
            "convolutional network, or use average pooling (model.head pooled, model.pooling average)."
        )
    height, width = features.shape[2:]
    if height < least or width < least:
        raise ConfigError(
            f"{reader} needs a feature map of at least {least} x {least} cells, but the network gives "
            f"{height} x {width}: give larger images (data.image-px, data.ground-px), or lower model.parts."
        )
