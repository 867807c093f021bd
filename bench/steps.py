"""The steps of a run, in order: is it right, the scenarios, batches, matching, start-up, peers.

Each adds to `Parts`; an interrupt leaves what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cases.batches import BatchCase
from bench.cases.camera import camera
from bench.cases.endurance import endure, find_drift
from bench.cases.flight import flight
from bench.cases.matching import MATCH_QUERIES, MatchLimits, time_matching
from bench.cases.photo import Raw, multi_stream, offline, single_stream, stage_summaries, to_record
from bench.cases.rig import Rig
from bench.cases.startup import measure_startup
from bench.machine.power import Recorder, energy_per_frame_mj
from bench.machine.program import say
from bench.machine.roofline import Ceiling
from bench.machine.state import MachineState
from bench.peers.runs import EmbedTask, embed_peers, match_peers, open_match_peers
from bench.record import (
    CAMERA,
    ENDURANCE,
    FLIGHT,
    MULTI_STREAM,
    OFFLINE,
    SINGLE_STREAM,
    Accuracy,
    BatchRecord,
    MatchRecord,
    PeerRecord,
    ScenarioRecord,
)
from bench.request import MATCH_TOP_K, BenchRequest
from bench.sampling import GiveWay, StopRule
from bench.validity import RecallGate, check_recall, check_selftest
from dphr_infer.engines.base import Engine
from dphr_infer.engines.embedder import Embedder
from dphr_infer.errors import DphrError
from dphr_infer.evaluate.truth import read_truth
from dphr_infer.files.bundle import MANIFEST_NAME, Bundle
from dphr_infer.files.gallery import Gallery
from dphr_infer.images.photo import to_photo
from dphr_infer.images.preprocess import read_image
from dphr_infer.locate.gpu_pipeline import GpuPipeline
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.matchers.base import Matcher
from dphr_infer.measure.clock import now_ms
from dphr_infer.measure.machine import Machine
from dphr_infer.measure.memory import peak_bytes
from dphr_infer.measure.stats import MIN_SAMPLES_P90, MIN_SAMPLES_P99

_PHOTOS_IN_MEMORY = 32
CPU = "cpu"
NO_GALLERY = "no gallery was given: embedding alone is measured"


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """Everything opened, and the machine's ceilings.

    Attributes:
        engine: of the rig where there is one.
        rig: None without a gallery.
        ceiling: of as many threads as engine and matcher have.
        give_way: lets another run measure for a while, between samples.
    """

    request: BenchRequest
    bundle: Bundle
    engine: Engine
    rig: Rig | None
    paths: list[Path]
    machine: Machine
    state: MachineState
    ceiling: Ceiling
    recorder: Recorder
    give_way: GiveWay | None = None

    @property
    def gallery(self) -> Gallery | None:
        """The rig's."""
        return None if self.rig is None else self.rig.localizer.gallery

    @property
    def matcher(self) -> Matcher | None:
        """The rig's."""
        return None if self.rig is None else self.rig.apart.parts[1]

    @property
    def on(self) -> DeviceSettings:
        """Where it all runs."""
        return self.request.search.on


@dataclass(slots=True)
class Parts:
    """What was measured so far, by the names of `BenchRecord`; the peak of memory is of the checks and scenarios."""

    scenarios: tuple[ScenarioRecord, ...] = ()
    batches: tuple[BatchRecord, ...] = ()
    matching: tuple[MatchRecord, ...] = ()
    peers: tuple[PeerRecord, ...] = ()
    accuracy: Accuracy | None = None
    cold_first_ms: float | None = None
    startup_ms: dict[str, Any] | None = None
    peak_memory_bytes: int | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    failure: str = ""


def _rule(setup: Setup, least: int = MIN_SAMPLES_P90, scenario: str = "") -> StopRule:
    return StopRule(setup.request.seconds_of(scenario), setup.request.noise, least, setup.give_way)


def _note_peak(parts: Parts) -> None:
    now = peak_bytes()
    if now is not None:
        parts.peak_memory_bytes = max(now, parts.peak_memory_bytes or 0)


def _check_accuracy(setup: Setup, parts: Parts) -> None:
    say("the bundle's self-test" + (", and the recall" if setup.request.truth else ""))
    request, rig = setup.request, setup.rig
    if rig is not None:
        start_ms = now_ms()
        rig.locate(rig.paths[0])
        parts.cold_first_ms = now_ms() - start_ms
    parts.accuracy = check_selftest(setup.bundle, setup.engine, setup.on.precision)
    if rig is not None and request.truth is not None and request.least_recall is not None:
        gate = RecallGate(read_truth(request.truth), request.recall_within, request.least_recall)
        parts.accuracy = check_recall(rig, gate, parts.accuracy)
    _note_peak(parts)


def _run_scenario(name: str, rig: Rig, setup: Setup) -> Raw:
    request, rule = setup.request, _rule(setup, MIN_SAMPLES_P99, name)
    if name == SINGLE_STREAM:
        return single_stream(rig, rule)
    if name == MULTI_STREAM:
        return multi_stream(rig, request.streams, rule)
    if name == OFFLINE:
        return offline(rig, max(request.batches), rule)
    if name == FLIGHT:
        return flight(rig, request.seconds_of(name))
    if name == CAMERA:
        return camera(rig, request.rate_hz, request.seconds_of(name))
    return endure(rig, request.minutes)


def _scenario(name: str, setup: Setup, parts: Parts) -> None:
    if setup.rig is None:
        parts.left_out[name] = NO_GALLERY
        return
    say(f"scenario {name}, at most {setup.request.seconds_of(name):g} s")
    raw = _run_scenario(name, setup.rig, setup)
    energy_mj = None
    if setup.give_way is None:
        energy_mj = energy_per_frame_mj(setup.recorder.energy_j(*raw.span_s), raw.photos)
    else:
        parts.left_out["energy a photo"] = "another run took turns with this one"
    timeline = setup.recorder.timeline
    extra = find_drift(raw, timeline) if name == ENDURANCE else {}
    pipeline = setup.rig.localizer.opened.pipeline
    if name == SINGLE_STREAM and isinstance(pipeline, GpuPipeline):
        k = min(setup.request.search.settings.top_k, len(setup.rig.localizer.gallery))
        stages = stage_summaries(pipeline, read_image(setup.paths[0]), k)
        extra["gpu_stage_p50_ms"] = {stage: summary.p50_ms for stage, summary in stages.items()}
    _note_peak(parts)
    parts.scenarios += (to_record(raw, timeline, energy_mj, extra),)
    differing = raw.extra.get("answers_differing", 0)
    if differing and parts.accuracy is not None:
        parts.accuracy = replace(parts.accuracy, answers_differing=differing)
    if raw.stopped == "interrupt":
        raise KeyboardInterrupt


def _batches(setup: Setup, parts: Parts) -> None:
    request = setup.request
    say(f"batches of {', '.join(map(str, request.batches))}")
    paths = setup.paths[: min(_PHOTOS_IN_MEMORY, max(request.batches))]
    case = BatchCase(
        setup.bundle,
        setup.engine,
        setup.on.precision,
        request.threads,
        photos=[to_photo(path) for path in paths],
        localizer=None if setup.rig is None else setup.rig.localizer,
        ceiling=setup.ceiling if setup.on.device == CPU else None,
    )
    for batch in request.batches:
        record, reason = case.measure(batch, _rule(setup))
        parts.batches += (record,)
        if reason:
            parts.left_out["share of the embedding's limit"] = reason


def _queries(rig: Rig, count: int) -> NDArray[np.float32]:
    photos = [to_photo(path) for path in (rig.paths * count)[:count]]
    views = [rig.apart.prepare(photo)[:1] for photo in photos]
    return rig.apart.embed(np.concatenate(views))


def _matching(setup: Setup, parts: Parts) -> None:
    against = MatchLimits(setup.machine, setup.ceiling.bandwidth, setup.request.threads)
    if setup.on.device != CPU:
        parts.left_out["matching alone"] = "its limit is the GPU's memory: dphr-bench gpu matching measures both"
        return
    if setup.gallery is None or setup.rig is None:
        parts.left_out["matching"] = NO_GALLERY
        return
    say(f"matching the gallery's {len(setup.gallery)} rows")
    k = min(MATCH_TOP_K, len(setup.gallery))
    for count in MATCH_QUERIES:
        queries = _queries(setup.rig, count)
        parts.matching += (time_matching(setup.gallery.embeddings, queries, k, _rule(setup), against),)


def locate_arguments(request: BenchRequest, gallery: Path, photo: Path) -> list[str]:
    """The arguments of `dphr-infer locate` that do what this run measures, for one photo."""
    found, search = [str(request.bundle), str(gallery), str(photo)], request.search
    for settings in (search.settings, search.camera, search.register, search.on):
        for name, value in asdict(settings).items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                found.append(f"--{option}" if value else f"--no-{option}")
            elif value is not None:
                found.append(f"--{option}={value}")
    if search.map is not None:
        found += [f"--map={search.map}", "--verify" if search.verify else "--no-verify"]
    if search.near is not None:
        found += [f"--near={search.near}", f"--within={search.within}"]
    if search.signer is not None:
        found.append(f"--require-signature={search.signer}")
    return found


def _startup(setup: Setup, parts: Parts) -> None:
    request = setup.request
    if not request.startups:
        return
    if request.gallery is None:
        parts.left_out["start-up"] = NO_GALLERY
        return
    say(f"starting dphr-infer locate {1 + request.startups} times")
    photo, bundle = setup.paths[0], setup.bundle
    files = [request.gallery, photo, bundle.folder / MANIFEST_NAME]
    files += [bundle.folder / name for name in bundle.manifest.files]
    arguments = locate_arguments(request, request.gallery, photo)
    parts.startup_ms = measure_startup(arguments, files, request.startups)


def _peers(setup: Setup, parts: Parts) -> None:
    request = setup.request
    if not request.peers:
        return
    say("peers: matching, embedding")
    if setup.gallery is None or setup.matcher is None or setup.rig is None:
        parts.left_out["peers of matching"] = NO_GALLERY
    else:
        top_k = request.search.settings.top_k  # the most that a GPU's matcher was opened for
        k = min(MATCH_TOP_K if setup.on.device == CPU else top_k, len(setup.gallery))
        opened = open_match_peers(
            setup.gallery.embeddings,
            request.threads or setup.machine.cores,
            "cpu" if setup.on.device == CPU else "cuda",
        )
        for count in MATCH_QUERIES:
            parts.peers += (*match_peers(opened, setup.matcher, _queries(setup.rig, count), k, request.seconds),)
    if request.checkpoint is None:
        parts.left_out["torch as a peer of embedding"] = "no --checkpoint was given: it has no weights to run"
    views = Embedder(setup.bundle.manifest.preprocess, setup.engine).prepare([read_image(setup.paths[0])])
    on_gpu = setup.on.device != CPU
    task = EmbedTask(setup.bundle.model_path(setup.on.precision), request.checkpoint, on_gpu, request.threads)
    parts.peers += (*embed_peers(setup.engine, task, views, request.seconds),)


def _steps(setup: Setup, parts: Parts) -> list[Callable[[], None]]:
    names = [name for name in setup.request.scenarios if name != ENDURANCE]
    steps: list[Callable[[], None]] = [lambda: _check_accuracy(setup, parts)]
    steps += [partial(_scenario, name, setup, parts) for name in names]
    steps += [lambda: _batches(setup, parts), lambda: _matching(setup, parts), lambda: _startup(setup, parts)]
    steps.append(lambda: _peers(setup, parts))
    if ENDURANCE in setup.request.scenarios:  # last, since it heats the machine
        steps.append(lambda: _scenario(ENDURANCE, setup, parts))
    return steps


def measure(setup: Setup) -> Parts:
    """Take every step; an interrupt or an error keeps what was measured before it, and is raised where nothing was."""
    parts = Parts()
    try:
        for step in _steps(setup, parts):
            step()
    except (KeyboardInterrupt, DphrError) as end:
        if not (parts.scenarios or parts.batches):
            raise
        if isinstance(end, DphrError):
            parts.failure = str(end)
        else:
            parts.interrupted = True
            say("interrupted: what was measured until now is kept")
    return parts
