"""The only file that imports numba: how every kernel of the package is compiled.

One thread per process and no fast-math, so that the same seed gives the same bytes however many processes work.
Divisions follow IEEE 754 instead of raising. Compiled code is cached on disk beside the source;
numba renews it when that source changes, but not when a kernel in another file does that it calls: after editing one,
remove the .nbi and .nbc files in __pycache__.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from dphr_infer.errors import MissingPackageError

try:
    from numba import njit, uint32
except ModuleNotFoundError as error:
    raise MissingPackageError("numba", "cities", "Generating cities") from error

__all__ = ["kernel", "small_kernel", "uint32"]

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a function; it is called as before."""
    return cast("F", njit(cache=True, error_model="numpy")(function))


def small_kernel(function: F) -> F:
    """Compile a function into each of its callers."""
    return cast("F", njit(cache=True, error_model="numpy", inline="always")(function))
