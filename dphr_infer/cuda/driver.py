"""One NVIDIA GPU through PyCUDA: context, memory, stream, kernels. The only file that imports pycuda.

The device's primary context is used, the one that TensorRT, ONNX Runtime and torch share in a process, so that all of
them see the same memory. It is current only inside `active()`, and whatever was current before is current again after
it. Work runs on one stream of its own that does not wait for the default stream.

Threads: enter and leave in one thread, because PyCUDA keeps, without a word, what another thread wants to give back.
Work may come from any thread, one at a time. The context's stack belongs to the thread, so `active()` is entered and
left by the thread that works.

PyCUDA 2026.1 has no CUDA graphs. `stream_handle` is there for those who capture one through the driver themselves:
the calls between two `synchronize()` are all asynchronous and allocate nothing.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import EngineError, MissingPackageError

BUILD_RECIPE = (
    "PyCUDA is compiled on the device: put CUDA's bin folder on PATH (nvcc and the headers beside it), and where the "
    "build stops at curand, write the line CUDA_ENABLE_CURAND = False to ~/.aksetup-defaults.py first"
)
# A kernel gets this much dynamic shared memory without being asked to allow more.
_PLAIN_SHARED_BYTES = 48 << 10
_NON_BLOCKING_STREAM = 1


@dataclass(frozen=True, slots=True)
class DeviceProperties:
    """What a launch has to know of a GPU.

    Attributes:
        number: CUDA's number of the device.
        name: as the driver gives it.
        capability: compute capability, e.g. (8, 7) on Orin.
        sm_count: streaming multiprocessors.
        shared_bytes: the most shared memory that one block may ask for.
        l2_bytes: second level cache.
        memory_bytes: device memory in total.
        driver: CUDA version that the driver serves, e.g. (12, 6).
        integrated: it shares the host's memory, as on a Jetson: pinned memory needs no copy.
    """

    number: int
    name: str
    capability: tuple[int, int]
    sm_count: int
    shared_bytes: int
    l2_bytes: int
    memory_bytes: int
    driver: tuple[int, int]
    integrated: bool = False


@dataclass(frozen=True, slots=True)
class Buffer:
    """Device memory that lives until its `Cuda` is closed or `free` is called with it."""

    address: int
    n_bytes: int


def open_cuda(device: int = 0) -> Cuda:
    """A GPU by CUDA's number; enter it before use.

    Entering raises MissingPackageError without PyCUDA, and EngineError without a driver or without that GPU.
    """
    return Cuda(device)


class Cuda:
    """A GPU, taken in `__enter__` and given back in `__exit__` with all memory and kernels, also after an error.

    All other methods need `active()` around them, which turns the driver's errors into EngineError.

    Args:
        device: CUDA's number of the GPU, from 0.
    """

    properties: DeviceProperties

    def __init__(self, device: int = 0) -> None:
        self._number = device
        self._context: Any = None
        self._driver: Any = None
        self._stream: Any = None
        self._copies: Any = None
        self._thread = 0
        self._modules: list[Any] = []
        self._device_memory: dict[int, Any] = {}
        self._pinned: list[Any] = []

    def __enter__(self) -> Cuda:
        if self._context is not None:
            raise EngineError(f"GPU {self._number} is entered twice by one object: open a second one.")
        self._driver = driver = _import_driver()
        device = _find_device(driver, self._number)
        try:
            self.properties = _read_properties(driver, device, self._number)
            self._context = device.retain_primary_context()
        except driver.Error as error:
            raise _refusal(f"GPU {self._number}", error) from error
        self._thread = threading.get_ident()
        try:
            with self.active():
                self._stream = driver.Stream(_NON_BLOCKING_STREAM)
                self._copies = driver.Stream(_NON_BLOCKING_STREAM)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context is None:
            return
        if threading.get_ident() != self._thread:
            raise EngineError(
                f"GPU {self._number} was opened in thread {self._thread} and is closed in {threading.get_ident()}, "
                "where PyCUDA would free nothing. Close it in the thread that opened it."
            )
        self._release()

    def _release(self) -> None:
        """Give back everything. After a failed kernel the driver refuses, but the context's end frees it all."""
        context, self._context = self._context, None
        context.push()
        try:
            with suppress(self._driver.Error):
                for stream in (self._copies, self._stream):
                    if stream is not None:
                        stream.synchronize()
            for memory in [*self._device_memory.values(), *self._pinned]:
                with suppress(self._driver.Error):
                    memory.free()
            self._device_memory.clear()
            self._pinned.clear()
            self._modules.clear()
            self._stream = self._copies = None
        finally:
            context.pop()
        with suppress(self._driver.Error):
            context.detach()
        pop_released_context()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the GPU's context current for this thread.

        Raises:
            EngineError: the driver refused something inside, or this object is not open.
        """
        if self._context is None:
            raise EngineError(f"GPU {self._number} is not open: use it inside a with statement.")
        context, driver_error = self._context, self._driver.Error
        context.push()
        try:
            yield
        except driver_error as error:
            raise _refusal(self.properties.name, error) from error
        finally:
            context.pop()

    @property
    def stream_handle(self) -> int:
        """The stream as a CUstream, for libraries that take one."""
        return int(self._stream.handle)

    def free_bytes(self) -> int:
        """Device memory that is free now."""
        return int(self._driver.mem_get_info()[0])

    def allocate(self, n_bytes: int, purpose: str) -> Buffer:
        """Take device memory.

        Raises:
            EngineError: there is not enough; names both sizes.
        """
        try:
            memory = self._driver.mem_alloc(n_bytes)
        except self._driver.MemoryError as error:
            raise EngineError(
                f"{self.properties.name} has {self.free_bytes():,} bytes free, but {n_bytes:,} are needed for "
                f"{purpose}. Close other programs on this GPU, or ask for less."
            ) from error
        self._device_memory[int(memory)] = memory
        return Buffer(int(memory), n_bytes)

    def free(self, buffer: Buffer) -> None:
        """Give device memory back early."""
        self._device_memory.pop(buffer.address).free()

    def pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        """Host memory that the GPU copies from and to without a stop, uint8 (n_bytes,); not cleared.

        Under unified addressing it is mapped too: kernels may read it at its own address.
        """
        array: NDArray[np.uint8] = self._driver.pagelocked_empty(n_bytes, np.uint8)
        self._pinned.append(array.base)
        return array

    def upload(self, address: int, host: NDArray[Any]) -> None:
        """Copy to the device in the stream's order; `host` must be contiguous and stay as it is until synchronised."""
        self._driver.memcpy_htod_async(address, host, self._stream)

    def upload_ahead(self, address: int, host: NDArray[Any]) -> Any:
        """Copy to the device beside what the stream does; an event that `wait_for` takes before the values are used."""
        self._driver.memcpy_htod_async(address, host, self._copies)
        return self._driver.Event().record(self._copies)

    def wait_for(self, event: Any) -> None:
        """Let the stream wait for an event of `upload_ahead`; this thread goes on."""
        self._stream.wait_for_event(event)

    def download(self, host: NDArray[Any], address: int) -> None:
        """Copy to the host in the stream's order; `host` holds the values once synchronised."""
        self._driver.memcpy_dtoh_async(host, address, self._stream)

    def clear(self, buffer: Buffer) -> None:
        """Fill with zero bytes, in the stream's order."""
        self._driver.memset_d8_async(buffer.address, 0, buffer.n_bytes, self._stream)

    def load(self, image: bytes) -> Any:
        """A module from a fatbin, cubin or PTX."""
        module = self._driver.module_from_buffer(image)
        self._modules.append(module)
        return module

    def function(self, module: Any, name: str, shared_bytes: int) -> Any:
        """A kernel of a module.

        Args:
            module: from `load`.
            name: the kernel's extern "C" name.
            shared_bytes: the most dynamic shared memory that it will be launched with.
        """
        function = module.get_function(name)
        if shared_bytes > _PLAIN_SHARED_BYTES:
            function.set_attribute(self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
        return function

    def launch(
        self, function: Any, grid: tuple[int, ...], block: tuple[int, ...], arguments: bytes, shared_bytes: int
    ) -> None:
        """Start a kernel in the stream's order; `arguments` lie as a C struct of its parameters does."""
        # What PyCUDA's prepared calls end in. They pack again, and call cuFuncSetBlockShape, which CUDA deprecates.
        function._launch_kernel(grid, block, arguments, shared_bytes, self._stream)

    def synchronize(self) -> None:
        """Wait until the stream has done everything."""
        self._stream.synchronize()

    def record(self) -> Any:
        """An event in the stream."""
        return self._driver.Event().record(self._stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Time between two recorded events; waits for the second."""
        end.synchronize()
        return float(start.time_till(end))


def pop_released_context() -> None:
    """Take a released primary context off the thread's stack.

    PyCUDA's detach() pushes the context and expects its release to pop it, which is so for other contexts only
    (cuDevicePrimaryCtxRelease "does not pop the context from stack in any circumstances").
    """
    ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _import_driver() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says of a driver that does not fit what the error below says
            return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        missing = MissingPackageError("pycuda", "cuda", "Matching on a GPU")
        missing.args = (f"{missing} ({BUILD_RECIPE}).",)
        raise missing from error
    except ImportError as error:
        if "libcuda" in str(error):
            raise EngineError(
                f"No NVIDIA driver is installed ({_one_line(error)}): install the GPU's driver, or match on the CPU."
            ) from error
        raise EngineError(
            f"PyCUDA was built for another CUDA driver than the installed one ({_one_line(error)}). Build it again: "
            f"pip install --force-reinstall --no-cache-dir pycuda. {BUILD_RECIPE}."
        ) from error


def _find_device(driver: Any, number: int) -> Any:
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        raise EngineError(
            f"The NVIDIA driver finds no GPU that it can use ({_one_line(error)}): see nvidia-smi, or match on the CPU."
        ) from error
    if count == 0:
        raise EngineError("The NVIDIA driver finds no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES.")
    if not 0 <= number < count:
        raise EngineError(f"There is no GPU {number}: this machine has {count}, numbered 0..{count - 1}.")
    return driver.Device(number)


def _read_properties(driver: Any, device: Any, number: int) -> DeviceProperties:
    attribute = driver.device_attribute
    major, minor = device.compute_capability()
    version = driver.get_driver_version()
    return DeviceProperties(
        number=number,
        name=device.name(),
        capability=(int(major), int(minor)),
        sm_count=int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT)),
        shared_bytes=int(device.get_attribute(attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)),
        l2_bytes=int(device.get_attribute(attribute.L2_CACHE_SIZE)),
        memory_bytes=int(device.total_memory()),
        driver=(version // 1000, version % 1000 // 10),
        integrated=bool(device.get_attribute(attribute.INTEGRATED)),
    )


def _refusal(where: str, error: BaseException) -> EngineError:
    return EngineError(
        f"{where}: {_one_line(error)}. If it stays, another program may hold the GPU, or a kernel failed: see "
        "nvidia-smi and dmesg."
    )


def _one_line(error: BaseException) -> str:
    """The driver's words without line breaks and stray bytes."""
    words = "".join(letter if letter.isprintable() else " " for letter in str(error)).split()
    return " ".join(words) or type(error).__name__
