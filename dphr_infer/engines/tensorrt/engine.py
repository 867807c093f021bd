"""TensorRT and TensorRT-RTX on the GPU: a plan from the cache, or built at first use, and run as one graph launch.

The same few names serve TensorRT 10.3 to 11.x and TensorRT-RTX, see tensorrt_api.py: named tensors at fixed addresses,
`execute_async_v3` in PyCUDA's stream. Each batch size gets a CUDA graph of its own at its second call.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.driver import Buffer, Cuda, open_cuda
from dphr_infer.cuda.graph import GraphCache
from dphr_infer.cuda.one_at_a_time import OneAtATime
from dphr_infer.engines.onnxruntime import INPUT_NAME, OUTPUT_NAME, Shape
from dphr_infer.engines.tensorrt.api import Api, Messages, open_tensorrt
from dphr_infer.engines.tensorrt.build import BuildOptions
from dphr_infer.engines.tensorrt.cache import EngineCache
from dphr_infer.engines.tensorrt.cached import cached_plan
from dphr_infer.errors import BundleError, EngineError

MAX_BATCH = 16


class DeviceNetwork:
    """A plan on an open GPU, its tensors at fixed addresses. Make and use it inside `cuda.active()`.

    Args:
        cuda: the open GPU.
        api: the TensorRT that built the plan.
        plan: the serialised engine.
        shape: what the model takes and gives.
        max_batch: of the plan.
        name: of the model, for errors.
        images, embeddings: where its tensors lie; None takes memory for them.

    Attributes:
        images: device memory, uint8 (max_batch, height_px, width_px, 3).
        embeddings: device memory, float32 (max_batch, dim).

    Raises:
        BundleError: the plan is of another shape.
        EngineError: TensorRT refuses the plan, or there is too little memory.
    """

    def __init__(
        self,
        cuda: Cuda,
        api: Api,
        plan: bytes,
        shape: Shape,
        max_batch: int,
        name: str,
        images: Buffer | None = None,
        embeddings: Buffer | None = None,
    ) -> None:
        self.shape, self.max_batch, self.name = shape, max_batch, name
        self._cuda, self._messages = cuda, Messages()
        self._image_bytes = shape.height_px * shape.width_px * 3
        self._logger = api.logger(self._messages)
        self._runtime = api.module.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._refusal("cannot load the plan")
        self._check_shape()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._refusal(f"cannot open the plan beside {cuda.free_bytes():,} free bytes")
        self.images = images or cuda.allocate(max_batch * self._image_bytes, f"{name}'s images")
        self.embeddings = embeddings or cuda.allocate(max_batch * shape.dim * 4, f"{name}'s embeddings")
        self._bind(INPUT_NAME, self.images.address)
        self._bind(OUTPUT_NAME, self.embeddings.address)

    def _check_shape(self) -> None:
        found = {name: tuple(self._engine.get_tensor_shape(name)) for name in (INPUT_NAME, OUTPUT_NAME)}
        size = self.shape
        expected = {INPUT_NAME: (size.height_px, size.width_px, 3), OUTPUT_NAME: (size.dim,)}
        if any(found[name][1:] != expected[name] for name in found):
            raise BundleError(
                f"The plan of {self.name} has {found}, its manifest says {size}: the two do not belong together. "
                "Export the bundle again."
            )

    def _bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise self._refusal(f"refuses an address for {name}")

    def _refusal(self, what: str) -> EngineError:
        reason = (self._messages.errors or ["it gives no reason"])[0][:300]
        return EngineError(
            f"TensorRT {what} of {self.name} ({reason}). Remove the plan from the engine cache, or free GPU memory."
        )

    def enqueue(self, batch: int) -> None:
        """Put the embedding of the first `batch` images into the GPU's stream; waits for nothing.

        Raises:
            EngineError: TensorRT refuses.
        """
        images = (batch, self.shape.height_px, self.shape.width_px, 3)
        if not self._context.set_input_shape(INPUT_NAME, images):
            raise self._refusal(f"refuses a batch of {batch}, at most {self.max_batch},")
        if not self._context.execute_async_v3(self._cuda.stream_handle):
            raise self._refusal(f"cannot run a batch of {batch}")

    def close(self) -> None:
        """Give back what TensorRT holds, in the order that it asks for; the buffers are the GPU's to free."""
        self._context = self._engine = self._runtime = None


def open_network(
    cuda: Cuda,
    model_path: Path,
    shape: Shape,
    max_batch: int,
    cache: EngineCache,
    images: Buffer | None = None,
    embeddings: Buffer | None = None,
) -> DeviceNetwork:
    """The network of an .onnx file on an open GPU; built now where the cache has no plan of it.

    Arguments as `DeviceNetwork`.

    Raises:
        MissingPackageError: no TensorRT is installed.
        EngineError, BundleError: see `cached_plan` and `DeviceNetwork`.
    """
    api = open_tensorrt()
    try:
        model = model_path.read_bytes()
    except OSError as error:
        raise EngineError(f"{model_path} cannot be read: {os.strerror(error.errno or 0)}.") from error
    options = BuildOptions(max_batch=max_batch, opt_batch=1)
    with cuda.active():
        plan = cached_plan(api, model, options, model_path.name, cuda.properties, cache)
        return DeviceNetwork(cuda, api, plan.content, shape, max_batch, model_path.name, images, embeddings)


class TensorRtEngine:
    """Runs one .onnx file on a GPU through TensorRT. See `Engine` for what it promises.

    Enter and leave it in one thread; a call while another runs is refused. A call with more than MAX_BATCH images is
    refused: `Embedder` hands over what fits. The first run on a device builds the plan, which takes minutes on an Orin
    and shows its progress.

    Args:
        model_path: the .onnx file.
        name: engine and device, for reports.
        expected: the sizes that the bundle's manifest names.
    """

    def __init__(self, model_path: Path, name: str, expected: Shape) -> None:
        self.name = name
        self.dim, self.height_px, self.width_px = expected.dim, expected.height_px, expected.width_px
        self._path, self._expected, self._max_batch = model_path, expected, MAX_BATCH
        self._one = OneAtATime(name)
        self._cuda: Cuda | None = None
        self._network: Any = None

    def __enter__(self) -> TensorRtEngine:
        if self._cuda is not None:
            raise EngineError(f"{self.name} is entered twice: open a second one.")
        with ExitStack() as stack:
            cuda = stack.enter_context(open_cuda())
            network = open_network(cuda, self._path, self._expected, self._max_batch, EngineCache())
            stack.callback(network.close)
            with cuda.active():
                self._pixels = cuda.pinned(network.images.n_bytes)
                self._found = cuda.pinned(network.embeddings.n_bytes)
            self._graphs = GraphCache(cuda)
            stack.pop_all()
        self._cuda, self._network = cuda, network
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cuda, network, self._cuda, self._network = self._cuda, self._network, None, None
        if cuda is None:
            return
        try:
            with cuda.active():
                self._graphs.__exit__(kind, error, trace)
                network.close()
        finally:
            cuda.__exit__(kind, error, trace)

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a batch; see `Engine.embed`. Waits for the GPU once.

        Raises:
            EngineError: not open, another shape, dtype or size of a batch, an output that is not finite, or the GPU
                refused.
        """
        cuda, network = self._cuda, self._network
        if cuda is None:
            raise EngineError(f"{self.name} is not open: use it inside a with statement.")
        expected = (self.height_px, self.width_px, 3)
        batch = len(images)
        if images.dtype != np.uint8 or images.shape[1:] != expected or not 1 <= batch <= self._max_batch:
            raise EngineError(
                f"{self.name} was given {images.dtype} {images.shape}; it takes uint8 (B, {self.height_px}, "
                f"{self.width_px}, 3) with 1 <= B <= {self._max_batch}."
            )
        pixels, found = self._pixels[: images.nbytes], self._found[: batch * self.dim * 4]

        def work() -> None:
            cuda.upload(network.images.address, pixels)
            network.enqueue(batch)
            cuda.download(found, network.embeddings.address)

        with self._one, cuda.active():
            pixels[:] = images.reshape(-1)
            self._graphs.run(batch, work)
            cuda.synchronize()
            embeddings: NDArray[np.float32] = found.view(np.float32).reshape(batch, self.dim).copy()
        if not np.isfinite(embeddings).all():
            bad = int((~np.isfinite(embeddings)).any(axis=1).sum())
            raise EngineError(
                f"{self.name} gave {bad} of {batch} embeddings that are not finite: the plan or the weights are "
                "damaged. Remove the plan from the engine cache; if it stays, export the bundle again."
            )
        return embeddings
