"""What the points of a sweep share, and how their records become one report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bench.machine.program import identity, say
from bench.machine.roofline import Ceiling, measure_ceiling
from bench.machine.state import MachineState, read_state
from bench.record import BenchRecord, Subject, now
from bench.sampling import StopRule, measure_overhead_ns
from dphr_infer.errors import DphrError
from dphr_infer.measure.machine import Machine, read_machine

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What every point shares; `ceilings` are those of each number of threads, 0 for all cores."""

    machine: Machine
    state: MachineState
    ceilings: Mapping[int, Ceiling]
    overhead_ns: float
    rule: StopRule

    def record(self, subject: Subject, *, reasons: tuple[str, ...] = (), **measured: Any) -> BenchRecord:
        """A record of one point; its ceilings are those of the subject's threads.

        Args:
            reasons: why its figures may not be believed.
            measured: further fields of `BenchRecord`.
        """
        ceiling = self.ceilings[subject.threads or 0]
        return BenchRecord(
            date=now(),
            valid=not reasons,
            invalid_reasons=reasons,
            flags=self.state.warnings(self.machine),
            program=identity(),
            machine=self.machine,
            state=self.state,
            subject=subject,
            bandwidth_bytes_per_s=ceiling.bandwidth,
            matmul_flops_per_s=ceiling.flops_per_s,
            overhead_ns=self.overhead_ns,
            **measured,
        )


def open_bench(rule: StopRule, threads: Iterable[int] = (0,)) -> Bench:
    """Measure the machine's ceilings, for each number of threads; 0 is all cores."""
    identity()  # what is on the disk now, not at the end
    machine, state = read_machine(), read_state()
    say("memory bandwidth, matrix products, the bench's own overhead")
    ceilings = {number: measure_ceiling(machine, number) for number in unique(threads)}
    return Bench(machine, state, ceilings, measure_overhead_ns(), rule)


def match_subject(dim: int, rows: int, dtype: str, matcher: str, threads: int, k: int) -> Subject:
    """What a search on generated rows is of."""
    return Subject(dim=dim, matcher=matcher, threads=threads, gallery_rows=rows, gallery_dtype=dtype, top_k=k)


def unique(values: Iterable[Item]) -> list[Item]:
    """Each value once, in order: a point measured twice could not be told from itself."""
    return list(dict.fromkeys(values))


def _common(subjects: list[Subject]) -> Subject:
    """What is the same for all; None where they differ."""
    first, *others = (dataclasses.asdict(subject) for subject in subjects)
    differing = {name: None for name, value in first.items() if any(other[name] != value for other in others)}
    return replace(subjects[0], **differing)


def collect(points: Iterable[BenchRecord]) -> list[BenchRecord]:
    """All points; an interrupt or an error keeps those before it, and is raised where there are none."""
    records: list[BenchRecord] = []
    try:
        for record in points:
            records.append(record)
    except (KeyboardInterrupt, DphrError) as end:
        if not records:
            raise
        if isinstance(end, DphrError):
            records[-1] = replace(records[-1], failure=str(end))
        else:
            records[-1] = replace(records[-1], interrupted=True)
            say(f"interrupted: {len(records)} points are kept")
    return records


def merge(records: list[BenchRecord]) -> BenchRecord:
    """All points in one record, for tables and pictures; it is valid where all are, and as near as the least near."""
    reasons = tuple(dict.fromkeys(reason for record in records for reason in record.invalid_reasons))
    return replace(
        records[0],
        valid=not reasons,
        invalid_reasons=reasons,
        interrupted=any(record.interrupted for record in records),
        failure=records[-1].failure,
        scenarios=tuple(scenario for record in records for scenario in record.scenarios),
        matching=tuple(match for record in records for match in record.matching),
        subject=_common([record.subject for record in records]),
        accuracy=min(
            (record.accuracy for record in records if record.accuracy is not None),
            key=lambda accuracy: accuracy.selftest_min_cosine - accuracy.selftest_least_cosine,
            default=None,
        ),
        left_out={name: why for record in records for name, why in record.left_out.items()},
        batches=tuple(batch for record in records for batch in record.batches),
        bandwidth_bytes_per_s=max(record.bandwidth_bytes_per_s for record in records),
        matmul_flops_per_s=max(record.matmul_flops_per_s for record in records),
        peers=tuple(peer for record in records for peer in record.peers),
    )
