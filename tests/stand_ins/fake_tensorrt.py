"""Stands in for TensorRT's runtime on a machine without a GPU, with the names that 10.3, 11.x and RTX share.

A plan here is an ONNX file, run by ONNX Runtime on the memory of fake_pycuda: what an engine is given and gives is
real, how fast it would be is not. Work happens at the stream's synchronize(), as on a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


class FakeGraphs:
    """The driver's graph functions over a fake_pycuda driver: what the stream collects in a capture runs at launch."""

    def __init__(self, driver: Any) -> None:
        self.fake = driver
        self.graphs: dict[int, list[Any]] = {}
        self.executables: dict[int, list[Any]] = {}
        self.launches = 0
        self.fail: dict[str, int] = {}
        self._held: list[Any] | None = None

    def _code(self, name: str) -> int:
        assert self.fake.own_stack, f"{name} without a context"
        return self.fail.get(name, 0)

    def cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> int:
        assert stream.value == 7 and mode == 1 and self._held is None
        self._held = self.fake.stream.waiting
        self.fake.stream.waiting = []
        return self._code("cuStreamBeginCapture_v2")

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        assert self._held is not None
        number = len(self.graphs) + 1
        self.graphs[number], self.fake.stream.waiting = self.fake.stream.waiting, self._held
        self._held = None
        graph._obj.value = number
        return self._code("cuStreamEndCapture")

    def cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> int:
        number = len(self.executables) + 1
        self.executables[number] = self.graphs[graph.value]
        executable._obj.value = number
        return self._code("cuGraphInstantiateWithFlags")

    def cuGraphDestroy(self, graph: Any) -> int:
        del self.graphs[graph.value]
        return 0

    def cuGraphLaunch(self, executable: Any, stream: Any) -> int:
        self.launches += 1
        self.fake.stream.waiting += self.executables[executable.value]
        return self._code("cuGraphLaunch")

    def cuGraphExecDestroy(self, executable: Any) -> int:
        self.executables[executable.value] = []
        self.open = sum(bool(work) for work in self.executables.values())
        return 0


def fake_module(driver: Any, max_batch: int) -> Any:
    """A module with Runtime alone; plans are ONNX files."""

    class Context:
        def __init__(self, session: Any) -> None:
            self.session, self.shape, self.addresses = session, (), {}

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self.shape = shape
            return shape[0] <= max_batch

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == driver.stream.handle and len(self.addresses) == 2
            shape = self.shape

            def run() -> None:
                images = driver.on_device(self.addresses["images"], int(np.prod(shape))).reshape(shape)
                (found,) = self.session.run(["embeddings"], {"images": images.copy()})
                driver.on_device(self.addresses["embeddings"], found.nbytes)[:] = found.reshape(-1).view(np.uint8)

            driver.stream.later(run)
            return True

    class Engine:
        def __init__(self, plan: bytes) -> None:
            self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            found = {t.name: t.shape for t in (*self.session.get_inputs(), *self.session.get_outputs())}[name]
            return tuple(size if isinstance(size, int) else -1 for size in found)

        def create_execution_context(self) -> Context:
            return Context(self.session)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if plan == b"damaged":
                self.logger.log(SimpleNamespace(name="ERROR"), "magic tag does not match")
                return None
            return Engine(plan)

    class ILogger:
        pass

    return SimpleNamespace(Runtime=Runtime, ILogger=ILogger)
