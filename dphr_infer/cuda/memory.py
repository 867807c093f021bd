"""Whether a gallery fits in a GPU's memory, asked before anything is copied there."""

from __future__ import annotations

from dataclasses import dataclass

from dphr_infer.cuda.driver import Cuda, open_cuda
from dphr_infer.cuda.topk.operands import VECTOR_BYTES, ScanDtype, vectors_a_row
from dphr_infer.measure.memory import available_bytes

# Left free for buffers, kernels and other programs: an eighth of the GPU's memory, at most this much.
MOST_MARGIN_BYTES = 512 << 20
_MARGIN_PART = 8
_BOUND_BYTES = 8


@dataclass(frozen=True, slots=True)
class DeviceRoom:
    """What a gallery needs of a GPU's memory, and what is there.

    Attributes:
        needed_bytes: of the gallery, and of what is to lie beside it.
        free_bytes: what could be taken now.
        total_bytes: of the GPU.
        device: its name.
    """

    needed_bytes: int
    free_bytes: int
    total_bytes: int
    device: str

    @property
    def margin_bytes(self) -> int:
        """What has to stay free."""
        return min(MOST_MARGIN_BYTES, self.total_bytes // _MARGIN_PART)

    @property
    def fits(self) -> bool:
        """Whether the gallery can lie on the GPU, and the margin stays free."""
        return self.needed_bytes + self.margin_bytes <= self.free_bytes

    def __str__(self) -> str:
        """Both sizes, as the beginning of a sentence."""
        return (
            f"The gallery takes {self.needed_bytes:,} bytes on {self.device}, where {self.free_bytes:,} of "
            f"{self.total_bytes:,} are free and {self.margin_bytes:,} are kept free"
        )


def gallery_bytes(n_rows: int, dim: int, scan: ScanDtype) -> int:
    """Device memory of gallery rows: float16, and for an int8 scan their codes and bounds beside them."""
    row = vectors_a_row(dim, "fp16") * VECTOR_BYTES
    codes = vectors_a_row(dim, "int8") * VECTOR_BYTES + _BOUND_BYTES if scan == "int8" else 0
    return n_rows * (row + codes)


def room_on(cuda: Cuda, n_rows: int, dim: int, scan: ScanDtype, beside_bytes: int = 0) -> DeviceRoom:
    """The room on an open GPU; call it inside `cuda.active()`.

    Args:
        cuda: the open GPU.
        n_rows, dim: of the gallery.
        scan: "fp16" or "int8".
        beside_bytes: what will lie there too, e.g. the network's weights.
    """
    properties, free = cuda.properties, cuda.free_bytes()
    if properties.integrated:  # there the driver counts the file cache, which gives way, as taken
        free = max(free, available_bytes() or 0)
    needed = gallery_bytes(n_rows, dim, scan) + beside_bytes
    return DeviceRoom(needed, free, properties.memory_bytes, properties.name)


def room_on_device(n_rows: int, dim: int, scan: ScanDtype, beside_bytes: int = 0) -> DeviceRoom:
    """`room_on` of the first GPU, which is opened for this question alone.

    Raises:
        EngineError: no driver, or no such GPU.
        MissingPackageError: PyCUDA is not installed.
    """
    with open_cuda() as cuda, cuda.active():
        return room_on(cuda, n_rows, dim, scan, beside_bytes)
