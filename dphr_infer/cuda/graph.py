"""CUDA graphs: what a stream would do, recorded once and started again with one call.

PyCUDA has no graphs, so the driver's own functions capture its stream. They are CUDA 11.4's and later; JetPack 6 has
12.6. A graph holds addresses: everything that its work reads or writes must stay where it was.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType
from typing import Any

from dphr_infer.cuda.driver import Cuda
from dphr_infer.errors import EngineError

# Beyond so many kept graphs all are dropped, and made again as they come.
_MOST_GRAPHS = 64
# Only what this thread does may fail the capture.
_THREAD_LOCAL = 1


def load_driver() -> Any:
    """The driver's library, by its C names."""
    return ctypes.CDLL("libcuda.so.1")


class CudaGraph:
    """Work of a GPU's stream as one launch. Make, launch and free it inside `cuda.active()`.

    Args:
        cuda: an open GPU.
        work: puts copies, kernels and engine runs into the GPU's stream; it must neither wait nor take memory. It is
            called once, and its work does not run then.

    Raises:
        EngineError: the driver refuses to capture it.
    """

    def __init__(self, cuda: Cuda, work: Callable[[], object]) -> None:
        self._driver, self._stream = load_driver(), ctypes.c_void_p(cuda.stream_handle)
        self._executable = ctypes.c_void_p()
        self._check("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        graph = ctypes.c_void_p()
        try:
            work()
        finally:
            ended = self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))
        if ended:
            raise _refused("cuStreamEndCapture", ended)
        try:
            self._check("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Start the work in the stream's order."""
        self._check("cuGraphLaunch", self._executable, self._stream)

    def free(self) -> None:
        """Give the graph back; a second time does nothing."""
        if self._executable:
            self._driver.cuGraphExecDestroy(self._executable)
            self._executable = ctypes.c_void_p()

    def _check(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._driver, name)(*arguments):
            raise _refused(name, code)


def _refused(name: str, code: int) -> EngineError:
    return EngineError(
        f"{name} answers CUDA error {code}: this driver cannot capture the work as a graph. CUDA 11.4 or later is "
        "needed; see nvidia-smi."
    )


class GraphCache:
    """Graphs by the sizes of their work, made at the second call of a size: the first one lets libraries settle.

    A context manager for use inside `cuda.active()`; leaving it frees every graph.

    Args:
        cuda: an open GPU.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._graphs: dict[object, CudaGraph | None] = {}

    def __enter__(self) -> GraphCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for graph in self._graphs.values():
            if graph is not None:
                graph.free()
        self._graphs.clear()

    def run(self, sizes: object, work: Callable[[], object]) -> None:
        """Put `work` into the stream: as it is the first time that its sizes come, as a graph from then on.

        Args:
            sizes: hashable; equal sizes must mean the same work on the same addresses.
            work: see `CudaGraph`.
        """
        if sizes not in self._graphs:
            if len(self._graphs) == _MOST_GRAPHS:
                self.__exit__(None, None, None)
            self._graphs[sizes] = None
            work()
            return
        graph = self._graphs[sizes]
        if graph is None:
            graph = self._graphs[sizes] = CudaGraph(self._cuda, work)
        graph.launch()
