"""The gradient of one step: one batch, by one process or many, at once or in chunks, and always the same gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dphr_infer.errors import ConfigError
from dphr_train.config import OptimConfig
from dphr_train.datasets.pairs import PairBatch
from dphr_train.distributed import World, gather_exactly, gather_with_gradient, share_rows
from dphr_train.encoder import Encoder, normalise
from dphr_train.objective import Objective

Views = tuple[Tensor, Tensor]
"""Something of the queries and the same of the references, row i of both of the same pair."""


class TwoViews(nn.Module):
    """The encoder on both views of some pairs, as one forward pass, which DistributedDataParallel asks for.

    Where the views have one size they pass the network together, queries first, so that batch normalisation sees the
    mixture that it meets in evaluation; views of two sizes pass one after the other.
    """

    def __init__(self, encoder: Encoder, precision: str) -> None:
        super().__init__()
        self.encoder = encoder
        self._normalises_batches = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())
        self._kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def forward(self, queries: Tensor, references: Tensor) -> Views:
        """Parts (B, P, D) each, float32, of images uint8 (B, H, W, 3), each view with its own H and W.

        Raises:
            ConfigError: one image of a view would pass a network with batch normalisation alone.
        """
        if queries.shape == references.shape:
            first, second = self._parts(torch.cat([queries, references])).chunk(2)
            return first, second
        if len(queries) < 2 and self._normalises_batches and self.training:
            raise ConfigError(
                "The network has batch normalisation and its views two sizes, but only 1 pair passes it at a time; "
                "it needs 2 or more. Raise optim.chunk-size or optim.batch-size, or take a network with layer "
                "normalisation (convnext, vit)."
            )
        return self._parts(queries), self._parts(references)

    def _parts(self, images: Tensor) -> Tensor:
        pixels = normalise(images, self.encoder.mean, self.encoder.std)
        with torch.autocast(images.device.type, dtype=self._kind, enabled=self._kind is not None):
            return self.encoder.parts(pixels)


class PairStep:
    """Forward and backward pass of one batch.

    The loss always sees the whole joint batch, and once. It works on parts cut off from the network's graph, and its
    gradient there is then carried through the network: times world.size, because DistributedDataParallel averages
    (see gather_with_gradient). Weights of the loss get their full gradient on every process; the mean of those equal
    gradients is taken, so that rounding never lets the processes drift apart.

    With 0 < chunk_size < share of the batch, gradients are cached (Gao, Zhang, Han, Callan: Scaling Deep Contrastive
    Learning Batch Size under Memory Limited Setup, RepL4NLP 2021): a first pass embeds the chunks without a graph, the
    loss sees all parts and gives their gradient, a second pass embeds each chunk again, with the random numbers of the
    first, and carries its rows' gradient through. Memory is that of one chunk, time about a third more than the whole.
    This is the whole batch's gradient where a row's embedding does not depend on its neighbours, as in networks with
    layer normalisation (ConvNeXt, ViT). Batch normalisation in training mode sees the statistics of a chunk instead of
    the batch's, so there it is the gradient of another, noisier function; the same holds for the shares of processes.
    Its running statistics are moved by the second pass alone; of several processes, rank 0's are taken.

    Args:
        encoder: on its device, in training mode; all processes start from the weights of rank 0.
        objective: on the same device; likewise.
        config: batch size over all processes, chunk size, precision.
        world: the processes; `joined` where there are several.
        scaler: multiplies the loss before the backward pass; off but for fp16.

    Raises:
        ConfigError: the batch cannot be shared equally by the processes.
    """

    def __init__(
        self, encoder: Encoder, objective: Objective, config: OptimConfig, world: World, scaler: torch.amp.GradScaler
    ) -> None:
        share = share_rows(config.batch_size, world)
        self._objective, self._scaler, self._world = objective, scaler, world
        self._chunk_size = config.chunk_size
        self._parameters = [*encoder.parameters(), *objective.parameters()]
        self._device = next(encoder.parameters()).device
        self._views = TwoViews(encoder, config.precision)
        self._shared: nn.Module = self._views
        if world.size > 1:
            # gem leaves weights of some networks unused (ConvNeXt's last norm). Either way finds them; the static graph
            # does so once, but cannot go without synchronising, as all chunks but the last do.
            chunked = self._takes_chunks(share.stop - share.start)
            self._shared = DistributedDataParallel(
                self._views, static_graph=not chunked, find_unused_parameters=chunked
            )
            for value in (*objective.parameters(), *objective.buffers()):
                dist.broadcast(value.data, 0)

    def _takes_chunks(self, pairs: int) -> bool:
        return 0 < self._chunk_size < pairs

    def backward(self, batch: PairBatch) -> dict[str, float]:
        """Leave the gradient of the joint batch's loss in .grad of every parameter of encoder and objective.

        What was in .grad is dropped. All processes call this together and get the same gradients and terms. With a
        scaler the gradients are scaled. A loss that is not finite is the caller's to notice, in terms["loss"].

        Args:
            batch: this process's share (share_rows): as many pairs on each.

        Returns:
            The objective's terms, of the joint batch; reading them is the first that waits for the device.
        """
        for parameter in self._parameters:
            parameter.grad = None
        queries, references, places = (tensor.to(self._device, non_blocking=True) for tensor in batch)
        if self._takes_chunks(len(places)):
            return _to_floats(self._backward_in_chunks(queries, references, places))
        parts = self._shared(queries, references)
        terms, gradients = self._loss_gradient(parts, places)
        self._carry_back(parts, gradients)
        return _to_floats(terms)

    def _loss_gradient(self, parts: Views, places: Tensor) -> tuple[dict[str, Tensor], Views]:
        """Terms of the joint batch, and what flows back into the network at this process's parts."""
        own = tuple(view.detach().requires_grad_() for view in parts)
        queries, references = (gather_with_gradient(view) for view in own)
        total, terms = self._objective(queries, references, gather_exactly(places))
        self._scaler.scale(total).backward()
        size = self._world.size
        of_queries, of_references = (_gradient(view) * size for view in own)
        if size > 1:
            for parameter in self._objective.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= size
        return terms, (of_queries, of_references)

    def _backward_in_chunks(self, queries: Tensor, references: Tensor, places: Tensor) -> dict[str, Tensor]:
        count = math.ceil(len(places) / self._chunk_size)  # of nearly equal size: batch norm dislikes a small rest
        chunks = list(zip(queries.tensor_split(count), references.tensor_split(count), strict=True))
        parts, states = self._embed_without_graph(chunks)
        terms, (of_queries, of_references) = self._loss_gradient(parts, places)
        gradients = zip(of_queries.tensor_split(count), of_references.tensor_split(count), strict=True)
        for number, (chunk, state, gradient) in enumerate(zip(chunks, states, gradients, strict=True), start=1):
            set_random_state(state, self._device)
            with self._unshared() if number < len(chunks) else nullcontext():
                self._carry_back(self._shared(*chunk), gradient)
        return terms

    def _unshared(self) -> AbstractContextManager[None]:
        """Keep the gradients of a chunk to this process; those of the last one are shared with the sum."""
        if isinstance(self._shared, DistributedDataParallel):
            return self._shared.no_sync()
        return nullcontext()

    def _embed_without_graph(self, chunks: list[Views]) -> tuple[Views, list[tuple[Tensor, ...]]]:
        """Parts of all chunks, and the random state before each."""
        parts, states = [], []
        with torch.no_grad(), self._statistics_kept():
            for chunk in chunks:
                states.append(random_state(self._device))
                parts.append(self._views(*chunk))
        queries, references = (torch.cat(view) for view in zip(*parts, strict=True))
        return (queries, references), states

    def _carry_back(self, parts: Views, gradients: Views) -> None:
        """Backward pass through the network; where it computes activations again, that counts for no statistics."""
        with self._statistics_kept():
            torch.autograd.backward(parts, gradients)

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """Put batch norm's running statistics back as they were."""
        buffers = list(self._views.buffers())
        before = [buffer.clone() for buffer in buffers]
        yield
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _gradient(tensor: Tensor) -> Tensor:
    """.grad of a tensor that a backward pass has reached; zeros where it has not."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _to_floats(terms: dict[str, Tensor]) -> dict[str, float]:
    """Scalars by name, read from the device at once."""
    values: list[float] = torch.stack([value.double() for value in terms.values()]).tolist()
    return dict(zip(terms, values, strict=True))


def random_state(device: torch.device) -> tuple[Tensor, ...]:
    """State of the generators that stochastic depth and dropout draw from: the CPU's, and the GPU's on one."""
    cpu = torch.get_rng_state()
    return (cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (cpu,)


def set_random_state(state: tuple[Tensor, ...], device: torch.device) -> None:
    """Draw again what was drawn after `random_state`."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
