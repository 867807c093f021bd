"""Is it still right? The same engine and gallery that are timed must answer rightly in the same run.

Two gates: the bundle's own pictures must give its own embeddings (the gate of `dphr-infer doctor`), and where a truth
is given, a stated share of the photos must be located within a stated distance. A run that fails one is INVALID: how
fast a wrong answer comes is of no use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.cases.rig import Rig
from bench.record import Accuracy
from dphr_infer.engines.base import Engine
from dphr_infer.engines.embedder import Embedder
from dphr_infer.evaluate.scoring import LocatedPhoto
from dphr_infer.evaluate.truth import Truth
from dphr_infer.files.bundle import Bundle
from dphr_infer.images.metadata import read_photo_metadata
from dphr_infer.locate.self_test import MIN_COSINE
from dphr_infer.types import Precision


@dataclass(frozen=True, slots=True)
class RecallGate:
    """At least `least` of the photos with a truth must be located within `within_m` metres of it."""

    truths: Mapping[str, Truth]
    within_m: float
    least: float


def check_selftest(bundle: Bundle, engine: Engine, precision: Precision) -> Accuracy:
    """Run the bundle's own pictures through the engine that is timed."""
    images, expected = bundle.read_selftest()
    found = Embedder(bundle.manifest.preprocess, engine).embed_prepared(images)
    worst = float(np.sum(found * expected, axis=1).min()) if found.shape == expected.shape else -1.0
    return Accuracy(worst, MIN_COSINE[precision], len(images))


def check_recall(rig: Rig, gate: RecallGate, selftest: Accuracy) -> Accuracy:
    """Locate every photo that the truth names, once, and add the recall to what the self-test gave."""
    errors = []
    for path in rig.paths:
        if path.name in gate.truths:
            located = LocatedPhoto(path, read_photo_metadata(path), rig.locate(path), gate.truths[path.name])
            error_m = located.error_m
            if error_m is not None:
                errors.append(error_m)
    return Accuracy(
        selftest.selftest_min_cosine,
        selftest.selftest_least_cosine,
        selftest.selftest_images,
        recall=float(np.mean(np.array(errors) <= gate.within_m)),
        least_recall=gate.least,
        within_m=gate.within_m,
        photos_with_truth=len(errors),
        median_error_m=float(np.median(errors)),
    )


def invalid_reasons(accuracy: Accuracy) -> tuple[str, ...]:
    """Why the figures may not be believed; empty where they may."""
    found = []
    # Written so that a figure that is not a number fails too.
    if not accuracy.selftest_min_cosine >= accuracy.selftest_least_cosine:
        found.append(
            f"the engine reproduces the bundle's self-test only to a cosine of {accuracy.selftest_min_cosine:.5f}; at "
            f"least {accuracy.selftest_least_cosine} is needed. Reinstall the engine, or export the bundle again"
        )
    recall, least = accuracy.recall, accuracy.least_recall
    if recall is not None and least is not None and not recall >= least:
        found.append(
            f"{recall:.1%} of the {accuracy.photos_with_truth} photos with truth are located within "
            f"{accuracy.within_m:g} m; at least {least:.1%} was asked for. Check model, map and heading"
        )
    if accuracy.answers_differing:
        found.append(
            f"{accuracy.answers_differing} photos were located at another place in one piece than stage by stage: the "
            "engine or the matcher does not give the same answer twice"
        )
    return tuple(found)
