"""Opens what locates photos on a device: the one place that knows which parts a device takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from dphr_infer.files.bundle import Bundle, Precision
from dphr_infer.files.gallery import Gallery
from dphr_infer.locate.gpu_pipeline import VECTOR_VALUES, GpuPipeline
from dphr_infer.locate.localizer import DEFAULT_ROTATIONS, DEFAULT_TOP_K, AcceptRule, Heading, Localizer
from dphr_infer.locate.open_engine import matcher_device, open_engine
from dphr_infer.locate.open_matcher import open_matcher


def takes_one_launch(bundle: Bundle, device: str, heading: Heading) -> bool:
    """Whether a photo goes from pixels to matches by `GpuPipeline`; else it is embedded and matched apart."""
    return device == "cuda" and heading != "search" and bundle.manifest.dim % VECTOR_VALUES == 0


@contextmanager
def open_localizer(
    bundle: Bundle,
    gallery: Gallery,
    precision: Precision = "fp32",
    device: str = "cpu",
    threads: int | None = None,
    *,
    top_k: int = DEFAULT_TOP_K,
    heading: Heading = "as-is",
    rotations: int = DEFAULT_ROTATIONS,
    accept: AcceptRule | None = None,
    refine: bool = False,
) -> Iterator[Localizer]:
    """A localizer with everything that it needs, given back when the block ends, also after an error.

    This, not `Localizer`, takes a device. On "cuda" a photo goes from pixels to matches in one launch (`GpuPipeline`),
    but for heading "search" and for embeddings whose length is no multiple of 8: these embed and match apart, on the
    same GPU.

    Threads: as `Localizer`; enter and leave the block in one thread.

    Args:
        precision, device: as for `open_engine`.
        threads: on a CPU, of the engine and of the matcher each; None is every core that
            this process may use.
        top_k, heading, rotations, accept, refine: as for `Localizer`.

    Raises:
        EngineError, BundleError, GalleryError, ConfigError, MissingPackageError: as the parts; there is no fallback.
    """
    engine = open_engine(bundle, precision, device, threads)
    most = min(max(top_k, 1), len(gallery.embeddings))  # `Localizer` refuses a top_k below 1 in its own words
    matcher = open_matcher(gallery.embeddings, matcher_device(device), threads=threads, max_k=most)
    with ExitStack() as stack:
        pipeline = None
        if takes_one_launch(bundle, device, heading):
            pipeline = stack.enter_context(GpuPipeline(bundle, gallery.embeddings, precision, most))
        else:
            stack.enter_context(engine)
            stack.enter_context(matcher)
        yield Localizer(
            bundle,
            gallery,
            engine,
            matcher,
            top_k=top_k,
            heading=heading,
            rotations=rotations,
            accept=accept,
            refine=refine,
            pipeline=pipeline,
        )
