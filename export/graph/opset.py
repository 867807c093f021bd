"""Which opsets a graph may be written in.

From 17 on a LayerNorm is one operator, which half precision needs: taken apart, its squares leave the range of a half.
From 18 on the reductions are as torch's exporter writes them; it converts the finished graph to newer opsets.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from dphr_infer.engines.onnxruntime import INPUT_NAME, OUTPUT_NAME, OnnxRuntimeEngine
from dphr_infer.errors import EngineError, ExportError
from export.request import OPSET


def require_opset(opset: int) -> None:
    """Refuse an opset that the graph cannot be written in, or that the installed packages cannot read.

    Raises:
        ExportError: below 18, or above what onnx or ONNX Runtime knows.
    """
    if opset < OPSET:
        raise ExportError(
            f"Opset {opset} is too low; the graph needs at least {OPSET}: LayerNorm is one operator from opset 17 on, "
            "taken apart it leaves the range of half precision, and torch's exporter writes the reductions of opset "
            f"18. Export with opset {OPSET}."
        )
    if opset == OPSET:
        return
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ExportError(
            f"Opset {opset} is too high: the installed onnx {onnx.__version__} knows opsets up to {newest}. "
            f"Export with opset {OPSET}, which every runtime of this project reads, or install a newer onnx."
        )
    if not _runs(opset):
        runnable = next(known for known in range(opset - 1, OPSET - 1, -1) if known == OPSET or _runs(known))
        raise ExportError(
            f"Opset {opset} is too high: the installed ONNX Runtime, which the gate runs the model with, opens opsets "
            f"up to {runnable}. Export with opset {OPSET}, or install a newer onnxruntime."
        )


def _runs(opset: int) -> bool:
    """Whether ONNX Runtime opens a model of this opset, tried on the smallest one of our signature."""
    of = onnx.helper
    graph = of.make_graph(
        [
            of.make_node("Cast", [INPUT_NAME], ["pixels"], to=onnx.TensorProto.FLOAT),
            of.make_node("ReduceMean", ["pixels", "axes"], [OUTPUT_NAME], keepdims=0),
        ],
        "smallest",
        [of.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, ["batch", 1, 1, 3])],
        [of.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, ["batch", 3])],
        [of.make_tensor("axes", onnx.TensorProto.INT64, [2], [1, 2])],
    )
    # The format's own version is an older one, so that only the opset is tried.
    model = of.make_model(graph, opset_imports=[of.make_opsetid("", opset)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smallest.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            with OnnxRuntimeEngine(path, "onnxruntime"):
                return True
        except EngineError:
            return False
