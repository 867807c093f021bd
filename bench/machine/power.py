"""Temperatures, clocks, power and throttling while a benchmark runs, and the energy that it took.

    reader = open_power()
    with Recorder(reader, period_s=1.0) as recorder:
        start_s = now_s()
        ...                                      # work on `frames` frames
        stop_s = now_s()
    energy_per_frame_mj(recorder.energy_j(start_s, stop_s), frames)

What the machine does not tell is missing in a sample and named by `PowerReader.missing()`; nothing is estimated.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from bench.machine import sensors
from bench.machine.sensors import GpuReading
from dphr_infer.measure.clock import now_s
from dphr_infer.measure.nvidia_smi import find_nvidia_smi

# The rails that together are a whole module, widest first; the others are parts of these. An AGX Orin has no input
# rail: VIN_SYS_5V0 holds VDDQ_VDD2_1V8AO, which must not count twice. The carrier board is in none of them.
_WHOLE_MODULE: tuple[tuple[str, ...], ...] = (
    ("VDD_IN",),
    ("VIN",),
    ("POM_5V_IN",),
    ("5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)


@dataclass(frozen=True, slots=True)
class PowerSample:
    """The machine at one moment. A quantity that could not be read then is not in its dictionary.

    Attributes:
        t_s: of `now_s`.
        temperature_c, clock_mhz, power_w: {name of zone, clock or rail: value}. The power of a RAPL domain is its mean
            since the sample before, or since the opening.
        throttled: whether something slowed the machine down now or since the sample before; None where unknown.
        throttled_by: what did, in words.
        energy_j: {rail: joules since the reader was opened}, of rails that count energy themselves.
    """

    t_s: float
    temperature_c: dict[str, float]
    clock_mhz: dict[str, float]
    power_w: dict[str, float]
    throttled: bool | None
    throttled_by: tuple[str, ...] = ()
    energy_j: dict[str, float] = field(default_factory=dict)


class PowerReader:
    """Everything that this machine tells. Made by `open_power`; not for use by two threads at once.

    A sample reads some ten small files, 0.1 to 0.6 ms each where a sensor sits on a slow bus, and starts nvidia-smi
    where there is one (some 10 ms of another core).

    Attributes:
        total_rails: the rails whose sum is the power of the whole, as far as it is measured; empty where unknown.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temperatures = sensors.find_temperatures(root)
        self._clocks = sensors.find_clocks(root)
        self._rails = sensors.find_rails(root)
        self._counters = sensors.find_energy_counters(root)
        self._cooling = sensors.find_cooling(root)
        self._throttles = sensors.find_throttle_counters(root)
        self._smi = find_nvidia_smi(root)
        gpus = self._read_gpus()
        self._gpu_rails = tuple(f"gpu{gpu.index} board" for gpu in gpus if gpu.power_w is not None)
        self._gpus_answered = bool(gpus)
        self._last_counts = [sensors.read_integer(path) for _, path in self._throttles]
        self._last_uj = [sensors.read_integer(counter.path) for counter in self._counters]
        self._last_s = now_s()
        self._joules = [0.0] * len(self._counters)
        self.total_rails = self._find_total()

    def _read_gpus(self) -> list[GpuReading]:
        return sensors.read_gpus(self._smi) if self._smi else []

    def _find_total(self) -> tuple[str, ...]:
        rails = {gauge.name for gauge in self._rails}
        module = next((whole for whole in _WHOLE_MODULE if rails.issuperset(whole)), ())
        if module:
            return module
        # A package contains its cores and graphics, not its memory.
        processors = tuple(c.name for c in self._counters if c.name.startswith("package") and " " not in c.name)
        memory = tuple(c.name for c in self._counters if c.name.endswith(" dram"))
        return processors + memory + self._gpu_rails

    def sources(self) -> tuple[str, ...]:
        """What is read, in words: one entry a source with what it gives."""
        named: dict[str, list[str]] = {}
        for gauge in (*self._temperatures, *self._clocks, *self._rails):
            named.setdefault(gauge.source, []).append(gauge.name)
        if self._counters:
            named["RAPL"] = [counter.name for counter in self._counters]
        if self._gpus_answered:
            named["nvidia-smi"] = ["temperature, clocks, slowdown", *self._gpu_rails]
        throttling = [name for name, _ in (*self._cooling, *self._throttles)]
        if throttling:
            named["throttling"] = throttling
        return tuple(f"{source}: {', '.join(names)}" for source, names in named.items())

    def missing(self) -> tuple[str, ...]:
        """What cannot be read here, and why."""
        found = []
        if not self._temperatures and not self._gpus_answered:
            found.append("temperatures: no thermal zone and no hwmon sensor")
        if not self._clocks and not self._gpus_answered:
            found.append("clocks: no cpufreq and no devfreq")
        if sensors.unreadable_energy_counters(self._root):
            found.append("CPU power: RAPL's counters are readable by root only")
        if not self._rails and not self._counters and not self._gpu_rails:
            found.append("power: no INA3221, no readable RAPL and no nvidia-smi with power")
        elif not self.total_rails:
            found.append(
                f"total power: it is not known which of {', '.join(g.name for g in self._rails)} make the whole"
            )
        if self._smi and not self._gpus_answered:
            found.append(f"GPU: {self._smi} gave no figures")
        if not self._cooling and not self._throttles and not self._gpus_answered:
            found.append("throttling: no cooling device, no counter and no nvidia-smi")
        return tuple(found)

    def _count_energy(self, now_s: float) -> tuple[dict[str, float], dict[str, float]]:
        """(mean power since the last sample, energy since the opening) of each RAPL domain."""
        power, energy = {}, {}
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        for place, counter in enumerate(self._counters):
            reading, last = sensors.read_integer(counter.path), self._last_uj[place]
            if reading is None or last is None:
                continue
            joules = counter.joules_between(last, reading)
            self._joules[place] += joules
            self._last_uj[place] = reading
            energy[counter.name] = self._joules[place]
            if elapsed_s > 0:
                power[counter.name] = joules / elapsed_s
        return power, energy

    def _find_throttling(self, gpus: Sequence[GpuReading]) -> tuple[bool | None, tuple[str, ...]]:
        states = [(name, sensors.read_integer(path)) for name, path in self._cooling]
        counts = [sensors.read_integer(path) for _, path in self._throttles]
        reasons = [name for name, state in states if state is not None and state > 0]
        for (name, _), before, now in zip(self._throttles, self._last_counts, counts, strict=True):
            if before is not None and now is not None and now > before:
                reasons.append(name)
        self._last_counts = counts
        reasons += [f"gpu{gpu.index} {reason}" for gpu in gpus for reason in gpu.slowdown or ()]
        known = (
            any(state is not None for _, state in states)
            or any(count is not None for count in counts)
            or any(gpu.slowdown is not None for gpu in gpus)
        )
        return (bool(reasons) if known else None), tuple(reasons)

    def sample(self) -> PowerSample:
        """Read everything once."""
        temperature = {gauge.name: value for gauge in self._temperatures if (value := gauge.read()) is not None}
        clock = {gauge.name: value for gauge in self._clocks if (value := gauge.read()) is not None}
        power = {gauge.name: value for gauge in self._rails if (value := gauge.read()) is not None}
        gpus = self._read_gpus()
        for gpu in gpus:
            name = f"gpu{gpu.index}"
            for table, key, value in (
                (temperature, name, gpu.temperature_c),
                (clock, f"{name} sm", gpu.sm_clock_mhz),
                (clock, f"{name} memory", gpu.memory_clock_mhz),
                (power, f"{name} board", gpu.power_w),
            ):
                if value is not None:
                    table[key] = value
        throttled, reasons = self._find_throttling(gpus)
        t_s = now_s()
        counted, energy = self._count_energy(t_s)
        return PowerSample(t_s, temperature, clock, power | counted, throttled, reasons, energy)


def open_power(root: Path = Path("/")) -> PowerReader:
    """Find what can be read below `root`: everything, or nothing at all; `missing()` then says so."""
    return PowerReader(root)


def rail_energy_j(timeline: Sequence[PowerSample], rail: str, start_s: float, stop_s: float) -> float | None:
    """Energy of one rail between two moments; linear between samples, or by the rail's own counter.

    Returns:
        Joules; None where the samples that hold the rail do not reach from `start_s` to `stop_s`.
    """
    held = [sample for sample in timeline if rail in sample.power_w or rail in sample.energy_j]
    if len(held) < 2 or held[0].t_s > start_s or held[-1].t_s < stop_s or stop_s < start_s:
        return None
    joules = 0.0
    for left, right in itertools.pairwise(held):
        begin, end, span = max(left.t_s, start_s), min(right.t_s, stop_s), right.t_s - left.t_s
        if end <= begin:
            continue
        if rail in left.energy_j and rail in right.energy_j:
            joules += (right.energy_j[rail] - left.energy_j[rail]) * (end - begin) / span
            continue
        slope = (right.power_w[rail] - left.power_w[rail]) / span
        joules += (left.power_w[rail] + slope * ((begin + end) / 2 - left.t_s)) * (end - begin)
    return joules


def total_energy_j(
    timeline: Sequence[PowerSample], rails: Sequence[str], start_s: float, stop_s: float
) -> float | None:
    """Energy of rails that make a whole; None where there are none, or one of them is not covered."""
    parts = [rail_energy_j(timeline, rail, start_s, stop_s) for rail in rails]
    known = [part for part in parts if part is not None]
    return sum(known) if known and len(known) == len(parts) else None


def energy_per_frame_mj(energy_j: float | None, frames: int) -> float | None:
    """Millijoules a frame; None where the energy is unknown or there were no frames."""
    return 1e3 * energy_j / frames if energy_j is not None and frames > 0 else None


class Recorder:
    """Samples in a thread of its own from `__enter__` to `__exit__`, with one sample at each end.

    Args:
        reader: of `open_power`; only this recorder may use it meanwhile.
        period_s: between two samples.
    """

    def __init__(self, reader: PowerReader, period_s: float) -> None:
        self._reader = reader
        self._period_s = period_s
        self._samples: list[PowerSample] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="power recorder", daemon=True)
        self._failure: Exception | None = None

    def _take(self) -> None:
        with self._lock:
            self._samples.append(self._reader.sample())

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._period_s):
                self._take()
        except Exception as error:  # raised again where the caller sees it
            self._failure = error

    def __enter__(self) -> Recorder:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            if self._failure is not None:
                raise self._failure
            self._take()

    @property
    def timeline(self) -> tuple[PowerSample, ...]:
        """The samples so far, in order."""
        with self._lock:
            return tuple(self._samples)

    def energy_j(self, start_s: float, stop_s: float) -> float | None:
        """Energy of the whole machine, as far as its total rails measure it, between two moments of `now_s`.

        While it runs, one more sample is taken where `stop_s` lies after the last.

        Returns:
            Joules; None where the total is not measured or the recording does not cover the time.
        """
        if self._thread.is_alive() and self.timeline[-1].t_s < stop_s:
            self._take()
        return total_energy_j(self.timeline, self._reader.total_rails, start_s, stop_s)
