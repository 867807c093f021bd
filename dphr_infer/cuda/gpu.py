"""The first GPU as its driver describes it, asked through the driver's own library: no package is needed.

For those who say what is missing, before PyCUDA is there. Work on the GPU goes through driver.py.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from dphr_infer.errors import EngineError

LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MULTIPROCESSORS = 75, 76, 16


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        name: as the driver gives it.
        capability: compute capability, e.g. (8, 7) on Orin.
        sm_count: streaming multiprocessors.
        driver: CUDA version that the driver serves, e.g. (12, 6).
    """

    name: str
    capability: tuple[int, int]
    sm_count: int
    driver: tuple[int, int]


def find_gpu(library: str = LIBRARY) -> Gpu:
    """The GPU with CUDA's number 0. Takes no context and no memory on it.

    Args:
        library: of the driver, as the system's loader finds it.

    Raises:
        EngineError: there is no driver, or it finds no GPU that it can use.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise EngineError(
            f"there is no NVIDIA driver ({error}). On a Jetson it is part of Jetson Linux: flash the board again; on a "
            "PC install the GPU's driver."
        ) from error
    _call(cuda, "cuInit", 0)
    count, version, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise EngineError("the NVIDIA driver finds no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES.")
    _call(cuda, "cuDriverGetVersion", ctypes.byref(version))
    _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(cuda, "cuDeviceGetName", name, _NAME_BYTES, device)
    values = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MULTIPROCESSORS):
        value = ctypes.c_int()
        _call(cuda, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        values.append(value.value)
    return Gpu(
        name=name.value.decode(errors="replace"),
        capability=(values[0], values[1]),
        sm_count=values[2],
        driver=(version.value // 1000, version.value % 1000 // 10),
    )


def _call(cuda: Any, name: str, *arguments: Any) -> None:
    code = getattr(cuda, name)(*arguments)
    if code != 0:
        words = ctypes.c_char_p()
        known = cuda.cuGetErrorString(code, ctypes.byref(words)) == 0 and words.value is not None
        text = (words.value or b"").decode(errors="replace") if known else "an unknown error"
        raise EngineError(f"the NVIDIA driver refuses {name} with code {code} ({text}): see nvidia-smi and dmesg.")
