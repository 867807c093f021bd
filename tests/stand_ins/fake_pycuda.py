"""Stands in for `pycuda.driver` on a machine without a GPU: only what dphr_infer/cuda/driver.py uses, and as strictly.

Device memory is host memory that may only be touched through copies and kernels. What is asynchronous there happens
here at the stream's synchronize(), so that results read too early, or inputs overwritten too early, are wrong. Kernels
run on the CPU (`CpuDevice`) where one is given; otherwise launches are recorded only. Every misuse that the driver
would refuse, or silently leak, is an error: no context, foreign memory, a second free, a free from another thread.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

PAGE = 256
PLAIN_SHARED_BYTES = 48 << 10
DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Error(Exception):
    pass


class LogicError(Error):
    pass


class OutOfMemory(Error):
    pass


class LaunchError(Error):
    pass


@dataclass
class Launch:
    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: bytes
    shared_bytes: int


@dataclass
class FakeDriver:
    """One GPU; set its sizes, then install it as `pycuda.driver`. `calls` counts what was called, by name."""

    capability: tuple[int, int] = (8, 7)
    driver_version: int = 13000
    n_devices: int = 1
    memory_bytes: int = 1 << 28
    others_bytes: int = 0  # what other programs hold of it
    sm_count: int = 2
    shared_bytes: int = 166_912
    integrated: bool = False  # kernels may read pinned memory
    cpu: Any = None  # a CpuDevice
    fail: dict[str, BaseException] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    device_memory: dict[int, np.ndarray] = field(default_factory=dict)
    mapped_memory: dict[int, np.ndarray] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    retained: int = 0
    raw_stack: list[str] = field(default_factory=list)
    own_stack: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.Error, self.MemoryError = Error, OutOfMemory
        self.device_attribute = SimpleNamespace(
            MULTIPROCESSOR_COUNT="sm_count",
            MAX_SHARED_MEMORY_PER_BLOCK_OPTIN="shared_bytes",
            L2_CACHE_SIZE="l2_bytes",
            INTEGRATED="integrated",
        )
        self.function_attribute = SimpleNamespace(MAX_DYNAMIC_SHARED_SIZE_BYTES="dynamic")
        self.l2_bytes = 4 << 20
        self.Device = self._make_device_class()
        self.Stream = lambda flags: _Stream(self, flags)
        self.Event = lambda: _Event(self)

    def note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            raise self.fail[name]

    def need_context(self, name: str) -> None:
        self.note(name)
        if not self.own_stack:
            raise LogicError(f"{name} failed: invalid device context")

    def _make_device_class(self) -> Any:
        driver = self

        class Device:
            def __init__(self, number: int) -> None:
                self.number = number

            @staticmethod
            def count() -> int:
                return driver.n_devices

            def name(self) -> str:
                return "Fake Orin"

            def compute_capability(self) -> tuple[int, int]:
                return driver.capability

            def total_memory(self) -> int:
                return driver.memory_bytes

            def get_attribute(self, attribute: str) -> int:
                return int(getattr(driver, attribute))

            def retain_primary_context(self) -> _Context:
                driver.note("retain")
                driver.retained += 1
                return _Context(driver)

        return Device

    def init(self) -> None:
        self.note("init")

    def get_driver_version(self) -> int:
        return self.driver_version

    def mem_get_info(self) -> tuple[int, int]:
        self.need_context("mem_get_info")
        own = sum(map(len, self.device_memory.values()))
        return self.memory_bytes - self.others_bytes - own, self.memory_bytes

    def mem_alloc(self, n_bytes: int) -> _Allocation:
        self.need_context("mem_alloc")
        if n_bytes < 1:
            raise LogicError("cuMemAlloc failed: invalid argument")
        if n_bytes > self.mem_get_info()[0]:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        memory = np.full(n_bytes + PAGE, 0xA5, np.uint8)  # never zero by luck
        first = -memory.ctypes.data % PAGE
        part = memory[first : first + n_bytes]
        self.device_memory[part.ctypes.data] = part
        return _Allocation(self, part.ctypes.data)

    def pagelocked_empty(self, shape: int, dtype: Any) -> np.ndarray:
        self.need_context("pagelocked_empty")
        base = _Pinned(self, np.full(shape + PAGE, 0x5A, np.uint8))
        if self.integrated:
            self.mapped_memory[base.memory.ctypes.data] = base.memory
        return np.asarray(base).view(_PinnedArray)[: shape * np.dtype(dtype).itemsize].with_base(base)

    def on_device(self, address: int, n_bytes: int) -> np.ndarray:
        """The bytes at an address; they must lie in one allocation."""
        for start, memory in self.device_memory.items():
            if start <= address and address + n_bytes <= start + len(memory):
                return memory[address - start : address - start + n_bytes]
        raise LogicError(f"{n_bytes} bytes at {address:#x} lie in no allocation")

    def memcpy_htod_async(self, address: int, host: np.ndarray, stream: _Stream) -> None:
        self.need_context("memcpy_htod_async")
        self.on_device(address, host.nbytes)
        values = np.asarray(host).reshape(-1).view(np.uint8)
        stream.later(lambda: self._write(address, values))

    def _write(self, address: int, values: np.ndarray) -> None:
        self.on_device(address, values.nbytes)[:] = values

    def memcpy_dtoh_async(self, host: np.ndarray, address: int, stream: _Stream) -> None:
        self.need_context("memcpy_dtoh_async")
        target = np.asarray(host).reshape(-1).view(np.uint8)
        stream.later(lambda: np.copyto(target, self.on_device(address, target.nbytes)))

    def memset_d8_async(self, address: int, value: int, n_bytes: int, stream: _Stream) -> None:
        self.need_context("memset_d8_async")
        stream.later(lambda: self.on_device(address, n_bytes).fill(value))

    def module_from_buffer(self, image: bytes) -> _Module:
        self.need_context("module_from_buffer")
        return _Module(self)

    def run(self, launch: Launch) -> None:
        """Execute on the CPU with the arguments as the GPU would read them."""
        if self.cpu is None:
            return
        arguments, offset = [], 0
        for kind in self.cpu.kernels[launch.kernel]:
            size = 8 if kind[0] in "cp" else int(kind[1:])
            offset += -offset % size
            value = launch.arguments[offset : offset + size]
            offset += size
            arguments.append(self._pointed(kind, value) if kind[0] in "cp" else struct.unpack("i", value)[0])
        if offset != len(launch.arguments):
            raise LaunchError(f"{launch.kernel} takes {offset} bytes of arguments, given {len(launch.arguments)}")
        self.cpu.launch(launch.kernel, launch.grid, launch.block, *arguments, shared_bytes=launch.shared_bytes)

    def _pointed(self, kind: str, value: bytes) -> np.ndarray | None:
        (address,) = struct.unpack("Q", value)
        if address == 0:
            return None
        known = {**self.device_memory, **self.mapped_memory}
        start = next(start for start, memory in known.items() if start <= address < start + len(memory))
        dtype = DTYPES.get(int(kind[1:]), np.uint8)
        left = len(known[start]) - (address - start)
        size = np.dtype(dtype).itemsize
        if address % max(1, int(kind[1:])):
            raise LaunchError(f"misaligned address {address:#x}")
        return known[start][address - start :][: left // size * size].view(dtype)


class _PinnedArray(np.ndarray):
    """An array whose `base` can be freed, as PyCUDA's page-locked ones."""

    def with_base(self, base: _Pinned) -> np.ndarray:
        self.owner = base
        return self

    @property
    def base(self) -> Any:
        return getattr(self, "owner", None)


class _Pinned:
    def __init__(self, driver: FakeDriver, memory: np.ndarray) -> None:
        self.driver, self.memory = driver, memory
        driver.pinned.add(id(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.memory

    def free(self) -> None:
        self.driver.need_context("free pinned")
        self.driver.pinned.remove(id(self))
        self.driver.mapped_memory.pop(self.memory.ctypes.data, None)


class _Allocation:
    def __init__(self, driver: FakeDriver, address: int) -> None:
        self.driver, self.address = driver, address

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.driver.need_context("free")
        del self.driver.device_memory[self.address]


class _Context:
    """With PyCUDA's two stacks: its own, and the driver's, on which only the top of its own lies."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver, self.thread, self.valid = driver, threading.get_ident(), True

    def push(self) -> None:
        if self.driver.own_stack:
            self.driver.raw_stack.pop()
        self.driver.raw_stack.append("primary")
        self.driver.own_stack.append(self)

    def pop(self) -> None:
        self.driver.raw_stack.pop()
        self.driver.own_stack.pop()
        if self.driver.own_stack:
            self.driver.raw_stack.append("primary")

    def detach(self) -> None:
        if not self.valid or self in self.driver.own_stack or threading.get_ident() != self.thread:
            raise LogicError("detach of a dead, active or foreign context")
        self.valid = False
        self.driver.raw_stack.append("primary")  # the push that the release does not undo
        self.driver.retained -= 1


class _Stream:
    handle = 7

    def __init__(self, driver: FakeDriver, flags: int) -> None:
        driver.need_context("Stream")
        self.driver, self.flags = driver, flags
        self.waiting: list[Callable[[], Any]] = []

    def later(self, work: Callable[[], Any]) -> None:
        self.waiting.append(work)

    def synchronize(self) -> None:
        self.driver.need_context("synchronize")
        self.run()

    def run(self, mark: object = None) -> None:
        """Everything that waits, or what waits before a mark; nothing where the mark is passed already."""
        stop = len(self.waiting) if mark is None else next((i for i, w in enumerate(self.waiting) if w is mark), 0)
        works, self.waiting = self.waiting[:stop], self.waiting[stop:]
        for work in works:
            work()

    def wait_for_event(self, event: _Event) -> None:
        self.driver.need_context("wait_for_event")
        self.later(event.reach)


class _Event:
    def __init__(self, driver: FakeDriver) -> None:
        driver.need_context("Event")
        self.driver = driver

    def record(self, stream: _Stream) -> _Event:
        self.stream = stream
        self.mark = lambda: None  # a work of its own, so that its place in the stream is known
        stream.later(self.mark)
        return self

    def reach(self) -> None:
        self.stream.run(self.mark)

    def synchronize(self) -> None:
        self.driver.need_context("event synchronize")
        self.reach()

    def time_till(self, other: _Event) -> float:
        return 0.25


class _Module:
    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver

    def get_function(self, name: str) -> _Function:
        self.driver.need_context("get_function")
        if self.driver.cpu is not None and name not in self.driver.cpu.kernels:
            raise LogicError("cuModuleGetFunction failed: named symbol not found")
        return _Function(self.driver, name)


class _Function:
    def __init__(self, driver: FakeDriver, name: str) -> None:
        self.driver, self.name, self.allowed = driver, name, PLAIN_SHARED_BYTES

    def set_attribute(self, attribute: str, value: int) -> None:
        if value > self.driver.shared_bytes:
            raise LogicError("cuFuncSetAttribute failed: invalid argument")
        self.allowed = value

    def _launch_kernel(self, grid: Any, block: Any, arguments: bytes, shared_bytes: int, stream: _Stream) -> None:
        self.driver.need_context("launch")
        if shared_bytes > self.allowed:
            raise LaunchError("cuLaunchKernel failed: too many resources requested for launch")
        launch = Launch(self.name, grid, block, arguments, shared_bytes)
        self.driver.launches.append(launch)
        stream.later(lambda: self.driver.run(launch))
