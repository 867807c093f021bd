"""The bundle's self-test: do the engines of this machine give what torch gave when the bundle was made?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.engines.embedder import Embedder
from dphr_infer.errors import BundleError, DphrError, EngineError, printable
from dphr_infer.files.bundle import PRECISIONS, Bundle, Precision, model_name
from dphr_infer.locate.devices import DEVICES, open_engine, open_matcher, present_devices
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.types import Matches

# Below the export's gate for each, since another release of an engine may round in another way.
MIN_COSINE: dict[Precision, float] = {"fp32": 0.999, "fp16": 0.999, "int8": 0.95}


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What an engine, or a GPU's way from embedding or frame to match, made of the bundle's own pictures.

    Attributes:
        engine: engine, device and precision; or what matched.
        n_images: pictures that it embedded or matched; 0 where it could not.
        min_cosine: the least of all pictures, between its embedding and the shipped one; where `matches`, the
            similarity of its best match. nan where there is none.
        problem: why it must not fly; empty where it may.
        matches: it looked the pictures up among the shipped embeddings: what fails is this machine's, not the bundle's.
    """

    engine: str
    n_images: int
    min_cosine: float
    problem: str = ""
    matches: bool = False

    def line(self) -> str:
        """For people."""
        what = "similarity" if self.matches else "cosine"
        measured = f"min {what} {self.min_cosine:.6f} over {self.n_images} images, " if self.n_images else ""
        state = f"FAILED: {self.problem}" if self.problem else "good"
        return printable(f"self-test    {self.engine}: {measured}{state}")


def self_test(bundle: Bundle) -> Iterator[SelfTest]:
    """Run the bundle's own pictures through every engine and precision that are present, whatever the others do.

    On a GPU each must also find its own embedding among all of them: by the matcher alone, and with TensorRT from frame
    to match in one launch, as `--device cuda` locates a photo.

    Raises:
        BundleError: before the first, the bundle's self-test is unreadable; after the last, an engine came less near
            than MIN_COSINE.
        EngineError: after the last, an engine could not run the model, or only what matches on the GPU failed. Both
            name every engine that failed.
    """
    images, expected = bundle.read_selftest()
    precisions: list[Precision] = [p for p in PRECISIONS if model_name(p) in bundle.manifest.files]
    if not precisions:
        raise BundleError(f"{bundle.folder} holds no model, so there is nothing to test. Export the bundle again.")
    results = []
    devices = present_devices()
    on_gpu = [device for device in devices if DEVICES[device].matches_on_gpu]
    if on_gpu:
        results.append(_test_matcher(expected, DeviceSettings(on_gpu[0])))
        yield results[-1]
    for device in devices:
        for precision in precisions:
            on = DeviceSettings(device, precision)
            results.append(_test_engine(bundle, on, images, expected))
            yield results[-1]
            if (launched := _test_one_launch(bundle, on, images, expected)) is not None:
                results.append(launched)
                yield launched
    failed = [result for result in results if result.problem]
    if failed:
        embedding = [result for result in failed if not result.matches]
        kind = BundleError if any(result.n_images for result in embedding) else EngineError
        fix = "Fix what is named, or export the bundle again."
        if not embedding:
            fix = "Every engine embeds as the bundle says: fix the GPU's driver, CUDA or kernels, or fly on the CPU."
        names = "; ".join(f"{result.engine}: {result.problem.rstrip('.')}" for result in failed)
        raise kind(
            f"{len(failed)} of {len(results)} engines failed the self-test, so do not fly with them ({names}). {fix}"
        )


def _test_engine(
    bundle: Bundle, on: DeviceSettings, images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> SelfTest:
    name = f"{on.device} {on.precision}"
    try:
        engine = open_engine(bundle, on)
        name = engine.name
        with engine:
            found = Embedder(bundle.manifest.preprocess, engine).embed_prepared(images)
    except DphrError as error:
        return SelfTest(name, 0, math.nan, str(error))
    if found.shape != expected.shape:
        problem = f"it gave embeddings {found.shape}, the bundle's self-test holds {expected.shape}."
        return SelfTest(name, len(images), math.nan, problem)
    worst, needed = float(np.sum(found * expected, axis=1).min()), MIN_COSINE[on.precision]
    # A cosine that is no number is not near either.
    problem = "" if worst >= needed else f"a cosine of {worst:.5f}, at least {needed} is needed."
    return SelfTest(name, len(images), worst, problem)


def _test_one_launch(
    bundle: Bundle, on: DeviceSettings, images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> SelfTest | None:
    """Preprocessing, network and matcher in one piece, on a gallery of the shipped embeddings; None without such."""
    name = f"one launch from frame to match, {on.precision}"
    try:
        pipeline = DEVICES[on.device].open_pipeline(bundle, expected, on, max_k=1)
        if pipeline is None:
            return None
        found = []
        with pipeline:
            for image in images:
                pipeline.submit(image, 1)
                found.append(pipeline.collect())
    except DphrError as error:
        return SelfTest(name, 0, math.nan, str(error), matches=True)
    return _test_matches(name, found, expected, MIN_COSINE[on.precision])


def _test_matcher(expected: NDArray[np.float32], on: DeviceSettings) -> SelfTest:
    """The GPU's matcher alone, on the shipped embeddings."""
    name = "matcher on the GPU"
    try:
        with open_matcher(expected, on) as matcher:
            found = [matcher.match(row[None], 1) for row in expected]
    except DphrError as error:
        return SelfTest(name, 0, math.nan, str(error), matches=True)
    return _test_matches(name, found, expected, MIN_COSINE["fp16"])


def _test_matches(name: str, found: list[Matches], expected: NDArray[np.float32], needed: float) -> SelfTest:
    """Whether each picture's best match is itself, or one whose embedding is as near."""
    worst = min(float(matches.similarity[0, 0]) for matches in found)
    nearest = expected[[int(matches.rows[0, 0]) for matches in found]]
    strangers = int(np.sum(~(np.sum(nearest * expected, axis=1) >= needed)))
    problem = "" if worst >= needed else f"a best match of similarity {worst:.5f}, at least {needed} is needed."
    if strangers:
        problem = f"{strangers} of the pictures found another one than themselves."
    return SelfTest(name, len(found), worst, problem, matches=True)
