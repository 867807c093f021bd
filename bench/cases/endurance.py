"""One photo after the other for many minutes: does it slow down as the machine warms up, does its memory grow?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cases.photo import Raw, throttled_samples
from bench.cases.rig import Rig
from bench.machine.power import PowerSample
from bench.record import ENDURANCE
from bench.sampling import StopRule, sample
from dphr_infer.measure.clock import now_ms
from dphr_infer.measure.memory import resident_bytes
from dphr_infer.measure.stats import percentile

WINDOWS = 30
_SECONDS_PER_HOUR = 3600.0
_LEAST_FOR_SLOPE_S = 300.0
_MEMORY_EACH_MS = 500.0


class MemoryLog:
    """Resident memory over time, noted twice a second at most."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, int]] = []

    def note(self, at_ms: float) -> None:
        """Note it, unless that was just done or the system does not tell."""
        if not self.noted or at_ms - self.noted[-1][0] >= _MEMORY_EACH_MS:
            now_bytes = resident_bytes()
            if now_bytes is not None:
                self.noted.append((at_ms, now_bytes))


def endure(rig: Rig, minutes: float) -> Raw:
    """Photos in turn, file to position, for all of the time; a sample is a photo."""
    coming, memory = itertools.cycle(rig.paths), MemoryLog()

    def locate() -> None:
        rig.locate(next(coming))
        memory.note(now_ms())

    found = sample(locate, StopRule(60 * minutes))
    return endurance_raw(found.start_ms, found.duration_ms, minutes, found.stopped, memory)


def endurance_raw(
    start_ms: NDArray[np.float64], duration_ms: NDArray[np.float64], minutes: float, stopped: str, memory: MemoryLog
) -> Raw:
    """Samples over a long time, for `find_drift`."""
    settings = {"minutes": minutes, "windows": WINDOWS}
    return Raw(ENDURANCE, settings, start_ms, duration_ms, {}, len(duration_ms), stopped, {"memory": memory.noted})


def find_drift(raw: Raw, timeline: Sequence[PowerSample]) -> dict[str, Any]:
    """The p50 over time, in WINDOWS windows of equal length; throttled samples are left out and counted in each.

    Returns:
        windows: [{"t_s" of the middle since the beginning, "n", "p50_ms", "discarded", "resident_bytes" at most}], p50
            null in an empty one, memory where none was noted.
        drift_share: p50 of the last third of the time over that of the first third, minus 1.
        memory_growth_share: the same of the most resident memory; null without.
        slope_share_per_hour: least squares through the windows' p50, over their median; null for less than 5 minutes.
        spread_share: difference of the windows' quartiles over their median: what drift must exceed to mean something.
    """
    hit = throttled_samples(raw.start_ms, raw.duration_ms, timeline)
    t_s = (raw.start_ms - raw.start_ms[0]) / 1e3
    length_s = float(t_s[-1] + raw.duration_ms[-1] / 1e3)
    place = np.minimum((t_s / length_s * WINDOWS).astype(int), WINDOWS - 1)
    noted = [((at_ms - raw.start_ms[0]) / 1e3 / length_s, size) for at_ms, size in raw.extra.pop("memory", ())]
    windows = []
    for number in range(WINDOWS):
        inside = place == number
        kept = raw.duration_ms[inside & ~hit]
        windows.append(
            {
                "t_s": (number + 0.5) * length_s / WINDOWS,
                "n": len(kept),
                "p50_ms": percentile(kept, 50) if len(kept) else None,
                "discarded": int((inside & hit).sum()),
                "resident_bytes": max((b for at, b in noted if int(at * WINDOWS) == number), default=None),
            }
        )
    first, last = raw.duration_ms[(t_s < length_s / 3) & ~hit], raw.duration_ms[(t_s >= length_s * 2 / 3) & ~hit]
    early, late = (max((b for at, b in noted if a <= at < a + 1 / 3), default=None) for a in (0, 2 / 3))
    known = [(w["t_s"], w["p50_ms"]) for w in windows if w["p50_ms"] is not None]
    found: dict[str, Any] = {
        "windows": windows,
        "drift_share": percentile(last, 50) / percentile(first, 50) - 1 if len(first) and len(last) else None,
        "memory_growth_share": late / early - 1 if early and late else None,
        "slope_share_per_hour": None,
        "spread_share": None,
    }
    if len(known) >= 3:
        times, medians = np.array(known).T
        middle = float(np.median(medians))
        if length_s >= _LEAST_FOR_SLOPE_S:
            found["slope_share_per_hour"] = float(np.polyfit(times, medians, 1)[0]) * _SECONDS_PER_HOUR / middle
        found["spread_share"] = float(np.subtract(*np.percentile(medians, (75, 25)))) / middle
    return found
