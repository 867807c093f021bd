"""Opens what locates photos on a device: the one place that knows which parts a device takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from dphr_infer.bundle import Bundle, Precision
from dphr_infer.engines.open import matcher_device, open_engine
from dphr_infer.gallery import Gallery
from dphr_infer.gpu_pipeline import VECTOR_VALUES, GpuPipeline
from dphr_infer.localizer import DEFAULT_ROTATIONS, DEFAULT_TOP_K, AcceptRule, Heading, Localizer
from dphr_infer.matchers.open import open_matcher


def takes_one_launch(bundle: Bundle, device: str, heading: Heading) -> bool:
    """Whether a photo goes from pixels to matches by `GpuPipeline`; else it is embedded and matched apart."""
    return device == "cuda" and heading != "search" and bundle.manifest.dim % VECTOR_VALUES == 0


@contextmanager
def open_localizer(
    bundle: Bundle,
    gallery: Gallery,
    precision: Precision = "fp32",
    device: str = "cpu",
    threads: int = 0,
    *,
    top_k: int = DEFAULT_TOP_K,
    heading: Heading = "as-is",
    rotations: int = DEFAULT_ROTATIONS,
    accept: AcceptRule | None = None,
    refine: bool = False,
) -> Iterator[Localizer]:
    """A localizer with everything that it needs, given back when the block ends, also after an error.

    On "cuda" a photo goes from pixels to matches in one launch (`GpuPipeline`), but for heading "search" and for
    embeddings whose length is no multiple of 8: these embed and match apart, on the same GPU.

    Args:
        precision, device, threads: as for `open_engine`.
        top_k, heading, rotations, accept, refine: as for `Localizer`.

    Raises:
        EngineError, BundleError, GalleryError, ConfigError, MissingPackageError: as the parts; there is no fallback.
    """
    engine = open_engine(bundle, precision, device, threads)
    matcher = open_matcher(gallery.embeddings, matcher_device(device))
    with ExitStack() as stack:
        pipeline = None
        if takes_one_launch(bundle, device, heading):
            pipeline = stack.enter_context(GpuPipeline(bundle, gallery.embeddings, precision, top_k))
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
