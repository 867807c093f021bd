"""Which of topk.cu's kernels takes a batch of queries: the table topk_regimes.json.

Dot products cost arithmetic for each query, tensor cores pad a batch to 8, 16, 32 or 64 queries and cost the same for
one as for all of them. Below some number of queries dot products win, and that number depends on the GPU and on the
length of a row. The table has it by SM count and dimensions; the nearest entry counts. An entry's source is "model"
until `dphr-bench gpu regimes` has measured it on a GPU:

    format    "dphr-topk-regimes"
    version   1
    regimes   [{"dtype": "fp16" | "int8", "sm_count", "dim", "dot_up_to", "source"}], sorted

`dot_up_to` is the largest batch that goes to dot products; 0 sends every batch to tensor cores.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dphr_infer.cuda.topk.operands import ScanDtype
from dphr_infer.errors import EngineError
from dphr_infer.files.atomic import atomic_file

TABLE = Path(__file__).with_name("topk_regimes.json")
_FORMAT, _VERSION = "dphr-topk-regimes", 1


@dataclass(frozen=True, slots=True, order=True)
class Regime:
    """One entry of the table; see the head of this file."""

    dtype: ScanDtype
    sm_count: int
    dim: int
    dot_up_to: int
    source: str


def read_regimes(path: Path = TABLE) -> tuple[Regime, ...]:
    """The table.

    Raises:
        EngineError: missing, of another version, or without an entry for fp16 and for int8.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if (raw["format"], raw["version"]) != (_FORMAT, _VERSION):
            raise ValueError(f"it is {raw['format']} version {raw['version']}, not {_FORMAT} version {_VERSION}")
        regimes = tuple(Regime(**entry) for entry in raw["regimes"])
        for regime in regimes:
            if min(regime.sm_count, regime.dim) < 1 or regime.dot_up_to < 0:
                raise ValueError(f"{regime} holds a size below its least")
        if {regime.dtype for regime in regimes} != {"fp16", "int8"}:
            raise ValueError("it needs entries for fp16 and int8, and for nothing else")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"The table of kernels {path} cannot be used ({error}): reinstall dphr.") from error
    return regimes


def write_regimes(regimes: Iterable[Regime], path: Path = TABLE) -> None:
    """Write the table whole or not at all.

    Raises:
        StorageError: no space or no permission.
    """
    entries = [dataclasses.asdict(regime) for regime in sorted(regimes)]
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    text = f'{{"format": "{_FORMAT}", "version": {_VERSION}, "regimes": [\n{lines}\n]}}\n'
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def find_dot_up_to(regimes: Iterable[Regime], dtype: ScanDtype, dim: int, sm_count: int) -> int:
    """The entry whose SM count is nearest, then whose dimensions are, both by ratio; of equals the first."""

    def distance(regime: Regime) -> tuple[float, float, Regime]:
        return abs(math.log(regime.sm_count / sm_count)), abs(math.log(regime.dim / dim)), regime

    return min((regime for regime in regimes if regime.dtype == dtype), key=distance).dot_up_to


@functools.lru_cache(maxsize=64)
def dot_up_to(dtype: ScanDtype, dim: int, sm_count: int) -> int:
    """The largest batch of queries that goes to dot products, by the table that ships."""
    return find_dot_up_to(read_regimes(), dtype, dim, sm_count)
