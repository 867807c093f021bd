"""Which device torch computes on."""

from __future__ import annotations

import torch

from dphr_infer.errors import ConfigError


def require_device(device: str) -> None:
    """Refuse a device that this torch does not have.

    Raises:
        ConfigError: not "cpu" or "cuda[:number]", or no such GPU.
    """
    name, colon, number = device.partition(":")
    if name not in ("cpu", "cuda") or (colon and (name == "cpu" or not number.isdecimal())):
        raise ConfigError(f"The device {device!r} is unknown; choose cpu, cuda or cuda:NUMBER.")
    if name == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"The device is {device}, but this torch sees {torch.cuda.device_count()} CUDA GPUs: use --device cpu."
        )
