"""A fault planted in preprocess.cu by a few characters is seen by some case; the source as it is passes all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu_runner import KernelError
from kernel_sources import inlined
from preprocess_launches import SOURCE, launch, reference

from dphr_infer.cuda.preprocess.plan import longer_side_px
from dphr_infer.cuda.preprocess.resampling import rows_come_first
from dphr_infer.images.frame_format import FrameFormat, nv12_frames, rgb_frames
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.images.rectify import GroundSquare
from dphr_infer.types import CameraView

SEEDS = (0, 1, 2, 3, 4, 5)
UPRIGHT, UPRIGHT_NV12 = "preprocess_upright_rgb", "preprocess_upright_nv12"
TURNED, TURNED_NV12 = "preprocess_turned_rgb", "preprocess_turned_nv12"
RECTIFIED, RECTIFIED_NV12 = "preprocess_rectified_rgb", "preprocess_rectified_nv12"
KERNELS = (UPRIGHT, UPRIGHT_NV12, TURNED, TURNED_NV12, RECTIFIED, RECTIFIED_NV12)
SHARED = "extern __shared__ __align__(16) unsigned char shared_bytes[];"


@dataclass(frozen=True)
class Fault:
    """Replaces `old`, which stands in the source once, and builds one kernel of it: all would take too long.

    One that lies where rows come first is run by no plan where the installed Pillow always begins with columns.
    """

    name: str
    old: str
    new: str
    kernel: str = UPRIGHT
    rows_first: bool = False


FAULTS = (
    Fault("frames are not waited for", "    cp_async_wait<0>();\n    __syncthreads();\n    for", "    for"),
    Fault(
        "no barrier between frame rows and their pixels",
        "    cp_async_wait<0>();\n    __syncthreads();\n    for",
        "    cp_async_wait<0>();\n    for",
    ),
    Fault(
        "no barrier between pixels and the first pass",
        "    __syncthreads();\n    if (y + n < stop_y)",
        "    if (y + n < stop_y)",
    ),
    Fault(
        "no barrier between the passes",
        "  __syncthreads();\n  passes.finish(tile_of(images, s), s.out_width);\n}\n\n// A tile's part",
        "  passes.finish(tile_of(images, s), s.out_width);\n}\n\n// A tile's part",
    ),
    Fault(
        "no barrier before the second pass over sums",
        "      __syncthreads();\n    }\n    for (int i",
        "    }\n    for (int i",
        rows_first=True,
    ),
    Fault(
        "a window begins one pixel late",
        "x.first(column) - x.start, 1, x.row(column), x.count(column));\n    }",
        "x.first(column) - x.start + 1, 1, x.row(column), x.count(column));\n    }",
    ),
    Fault("a window ends one pixel early", "i < n; ++i, pixels += step", "i < n - 1; ++i, pixels += step"),
    Fault(
        "rows begin one late",
        "kept_ + (y.first(row) - y.start) * kept_pitch_",
        "kept_ + (y.first(row) - y.start + 1) * kept_pitch_",
    ),
    Fault(
        "a sum leaves out its first row",
        "ahead = y.first(row) - y.start;",
        "ahead = y.first(row) - y.start + 1;",
        rows_first=True,
    ),
    Fault(
        "channels in the other order",
        "out[0] = red(pixel), out[1] = green(pixel), out[2] = blue(pixel);",
        "out[2] = red(pixel), out[1] = green(pixel), out[0] = blue(pixel);",
    ),
    Fault("sums are cut off, not rounded", "int sums[3] = {1 << (PRECISION_BITS - 1), ", "int sums[3] = {0, "),
    Fault(
        "passes in the other order", "rows_first_(__ldg(table + ROWS_FIRST))", "rows_first_(!__ldg(table + ROWS_FIRST))"
    ),
    Fault(
        "a tile's rows are written a row lower",
        "blockIdx.y * s.tile_h;\n  return images",
        "blockIdx.y * s.tile_h + 1;\n  return images",
    ),
    Fault(
        "a frame's stride is forgotten",
        "static_cast<size_t>(band.y + i) * stride_ + 3 * band.x",
        "static_cast<size_t>(band.y + i) * 270 + 3 * band.x",
    ),
    Fault("every alignment is taken for 0", "+ static_cast<int>(behind16(row(band, i))) + 3 *", "+ 3 *"),
    Fault("the last vector of a row is missing", "at < skipped + n_bytes;", "at < skipped + n_bytes - 15;"),
    Fault(
        "U and V change places",
        "const int u = pair[0] - 128, v = pair[1] - 128;",
        "const int u = pair[1] - 128, v = pair[0] - 128;",
        UPRIGHT_NV12,
    ),
    Fault(
        "chroma of a row further down",
        "static_cast<size_t>((band.y + i) / 2)",
        "static_cast<size_t>((band.y + i + 1) / 2)",
        UPRIGHT_NV12,
    ),
    Fault(
        "chroma is not copied for an odd first row",
        "if (i == 0 || (band.y + i) % 2 == 0)",
        "if ((band.y + i) % 2 == 0)",
        UPRIGHT_NV12,
    ),
    Fault(
        "chroma of a column to the right",
        "(x / 2 - band.x / 2) * 2;",
        "(x / 2 - band.x / 2) * 2 + 2 * (x % 2);",
        UPRIGHT_NV12,
    ),
    Fault(
        "colours are rounded down",
        "__ldg(header_ + LUMA_ZERO)) + (1 << 15);",
        "__ldg(header_ + LUMA_ZERO));",
        UPRIGHT_NV12,
    ),
    Fault("the wrong way round", "{ return a * x + b * y + c; }", "{ return a * x - b * y + c; }", TURNED),
    Fault("another cubic", "2.0f * (before - one) + two - behind", "2.5f * (before - one) + two - behind", TURNED),
    Fault("the cubic is rounded", "0.0f), 255.0f));", "0.0f) + 0.5f, 255.0f));", TURNED),
    Fault(
        "the cubic is not clipped",
        "min(max(cubic(rows[0][i], rows[1][i], rows[2][i], rows[3][i], dy), 0.0f), 255.0f)",
        "cubic(rows[0][i], rows[1][i], rows[2][i], rows[3][i], dy)",
        TURNED,
    ),
    Fault(
        "the outline begins where the cubic does not", "floorf(least - 0.01f)) - 1)", "floorf(least - 0.01f)))", TURNED
    ),
    Fault("the outline ends a pixel early", "floorf(most + 0.01f)) + 3)", "floorf(most + 0.01f)) + 2)", TURNED),
    Fault("rows above the outline are left out", "high = i + 2.01f;", "high = i + 1.01f;", TURNED),
    Fault(
        "blocks at the edges are averaged as whole ones",
        "MEANS + (across < factor) + 2 * (down < factor)",
        "MEANS",
        TURNED,
    ),
    Fault("means are rounded down", "const unsigned half = across * down / 2,", "const unsigned half = 0,", TURNED),
    Fault(
        "frame rows are overwritten before all are averaged",
        "mean >> 24);\n      }\n      __syncthreads();",
        "mean >> 24);\n      }",
        TURNED,
    ),
    Fault(
        "rows are found without a barrier",
        "begins_[i] = least, ends_[i] = max(least, most);\n    }\n    __syncthreads();",
        "begins_[i] = least, ends_[i] = max(least, most);\n    }",
        TURNED,
    ),
    Fault(
        "window rows are overwritten while they are resized",
        "    }\n    __syncthreads();\n    passes.take(at, n);\n    __syncthreads();",
        "    }\n    __syncthreads();\n    passes.take(at, n);",
        TURNED,
    ),
    Fault(
        "window rows are resized before all are there",
        "    }\n    __syncthreads();\n    passes.take(at, n);",
        "    }\n    passes.take(at, n);",
        TURNED,
    ),
    Fault("east and west change places", "corner % 2 ? x_stop - 1 : x,", "corner % 2 ? x : x,", RECTIFIED),
    Fault(
        "the part ends a column early",
        "right = within(most_x + 1, all_w_) + 1;",
        "right = within(most_x, all_w_) + 1;",
        RECTIFIED,
    ),
    Fault(
        "a whole part is not corrected upwards",
        "if (rest < 0) --whole, rest += depth;",
        "if (rest < 0) rest += depth;",
        RECTIFIED,
    ),
    Fault("unseen pixels are read", "own_y < y_stop && seen(own_x, own_y);", "own_y < y_stop;", RECTIFIED),
    Fault(
        "a part is taken where there is no room",
        "(right - left) * (bottom - top) <= most_;",
        "right > left;",
        RECTIFIED,
    ),
    Fault(
        "what is smaller than 16 pixels is left out",
        "shown = any && ground.take(",
        "shown = side == PASS_ROWS && any && ground.take(",
        RECTIFIED,
    ),
    Fault(
        "the fraction across is the one down", "__fmaf_rn(down_.part, lower", "__fmaf_rn(across_.part, lower", RECTIFIED
    ),
    Fault(
        "columns are asked for before all rows are empty",
        "ends_[i] = 0;\n    __syncthreads();",
        "ends_[i] = 0;",
        RECTIFIED,
    ),
    Fault(
        "columns are found without a barrier",
        "all_w_) - left + 1);\n    }\n    __syncthreads();",
        "all_w_) - left + 1);\n    }",
        RECTIFIED,
    ),
    Fault(
        "rows are resized before all are rectified",
        "rectify_rows(pixels, table, s, ground, passes, at, n);\n    __syncthreads();",
        "rectify_rows(pixels, table, s, ground, passes, at, n);",
        RECTIFIED,
    ),
)


def one_kernel(kernel: str, name: str, fault: Fault | None) -> str:
    """The source with one of its kernels, under a name of its own, and a fault."""
    text = inlined(SOURCE)
    if fault is not None:
        assert text.count(fault.old) == 1, fault.name
        text = text.replace(fault.old, fault.new)
    lines = [
        line
        for line in text.replace(SHARED, "").splitlines()
        if not line.startswith("KERNEL(") or f"({kernel}," in line
    ]
    return "\n".join(lines).replace(f"KERNEL({kernel},", f"KERNEL({name},") + "\n#undef KERNEL\n"


PLANNED = (*((kernel, None) for kernel in KERNELS), *((fault.kernel, fault) for fault in FAULTS))


@pytest.fixture(scope="module")
def variants(cuda_on_cpu: Any) -> Any:
    """Every faulty kernel and, as the first six, the right ones, each in a namespace: one build takes seconds."""
    spaces = "".join(
        f"namespace v{i} {{\n{one_kernel(kernel, f'{kernel}_{i}', fault)}\n}}\nusing v{i}::{kernel}_{i};\n"
        for i, (kernel, fault) in enumerate(PLANNED)
    )
    return cuda_on_cpu.build(f'#pragma GCC optimize("O1")\n{SHARED}\n{spaces}')


def formats(kernel: str, width: int, height: int) -> FrameFormat:
    if kernel.endswith("rgb"):
        return rgb_frames(width, height, 3 * width + 5)
    return nv12_frames(width, height, matrix="bt601", colour_range="limited", stride_bytes=width + 9)


def run_cases(device: Any, kernel: str, variant: int, seed: int) -> None:
    """Raises AssertionError or KernelError where the kernel is wrong."""
    if kernel in (RECTIFIED, RECTIFIED_NV12):
        run_views(device, kernel, variant, seed)
        return
    turned = kernel in (TURNED, TURNED_NV12)
    cases = [
        # crop; several tiles; rows first; a larger model; a frame reduced by three that three does not divide
        (90, 76, Preprocess(20, 24), (0.0, 31.0)),
        (90, 122, Preprocess(41, 35, "bicubic"), (90.0, 200.0)),
        (44, 130, Preprocess(17, 40, "bicubic", "stretch"), (180.0, 77.0)),
        (50, 44, Preprocess(60, 50), (270.0, 5.0)),
        (142, 146, Preprocess(16, 16, "box"), (0.0, 3.0)),
        (70, 70, Preprocess(64, 64, "bicubic"), (90.0, 45.5)),
    ]
    for number, (width, height, preprocess, degrees) in enumerate(cases):
        layout = formats(kernel, width, height)
        frame = np.random.default_rng(number).integers(0, 2, layout.frame_bytes).astype(np.uint8) * 255
        for angle in degrees if turned else (None,):
            made = launch(
                device,
                [frame],
                layout,
                preprocess,
                None if angle is None else [angle],
                variant=f"_{variant}",
                seed=seed,
                preempt_every=8,
            )
            expected = reference(frame, layout, preprocess, angle)
            assert (made.images[0] != expected).mean() <= (0.0 if angle is None or angle % 90 == 0 else 2e-3)


def run_views(device: Any, kernel: str, variant: int, seed: int) -> None:
    """As `run_cases` for rectified frames."""
    cases = [
        # as it is, from pixel to pixel; as it is; reduced by three that three does not divide; near the
        # horizon, in small squares; partly unseen
        (64, 48, Preprocess(16, 16), CameraView(32.0, -90.0, 90.0), 1.0),
        (90, 76, Preprocess(20, 24), CameraView(30.0, -90.0, 60.0, 33.0), 1.2),
        (142, 146, Preprocess(17, 40, "box"), CameraView(40.0, -60.0, 70.0, 200.0, 9.0), 3.3),
        (160, 150, Preprocess(40, 40), CameraView(9.0, -28.0, 130.0, 70.0), 1.9),
        (62, 90, Preprocess(50, 33, "bilinear", "stretch"), CameraView(20.0, -45.0, 80.0, 120.0), 2.5),
    ]
    for number, (width, height, preprocess, view, zoom) in enumerate(cases):
        layout = formats(kernel, width, height)
        frame = np.random.default_rng(number).integers(0, 2, layout.frame_bytes).astype(np.uint8) * 255
        square = GroundSquare(view, longer_side_px(preprocess), zoom * view.gsd_m(width))
        made = launch(device, [frame], layout, preprocess, [square], variant=f"_{variant}", seed=seed, preempt_every=8)
        assert np.abs(made.images[0] - reference(frame, layout, preprocess, square).astype(int)).max() <= 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variant", range(len(KERNELS)), ids=KERNELS)
def test_the_source_as_it_is_passes_every_case(variants: Any, variant: int, seed: int) -> None:
    run_cases(variants, KERNELS[variant], variant, seed)


@pytest.mark.parametrize(
    ("variant", "fault"), list(enumerate(FAULTS, len(KERNELS))), ids=lambda value: getattr(value, "name", "")
)
def test_a_planted_fault_is_seen(variants: Any, variant: int, fault: Fault) -> None:
    if fault.rows_first and not rows_come_first((1, 64), (1, 32)):
        pytest.skip("this Pillow always begins with columns")
    with pytest.raises((AssertionError, KernelError)):
        for seed in SEEDS:
            run_cases(variants, fault.kernel, variant, seed)
