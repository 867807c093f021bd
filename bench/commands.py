"""The commands of dphr-bench with their options. What does the work is loaded when they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bench.request import BenchRequest, Count, EmbedGrid, FilterGrid, FlightRequest, MatchGrid, Share
from dphr_infer.cli.terminal import EXIT_INTERRUPTED
from dphr_infer.errors import ConfigError
from dphr_infer.types import Precision

if TYPE_CHECKING:
    from bench.compare.report import ComparisonReport
    from bench.record import BenchRecord

EXIT_INVALID = 1


@dataclass(frozen=True)
class Outputs:
    """Where the report is written, beside the terminal."""

    json: Path | None = None
    """Write every figure and sample there, a line for each record."""
    markdown: Path | None = None
    """Write the tables there."""
    html: Path | None = None
    """Write one page with pictures there."""
    png: Path | None = None
    """Write the pictures alone there, on one sheet."""

    def check(self) -> None:
        """Refuse what could not be written or drawn, before anything is measured."""
        from bench.report.plots import check_drawing
        from dphr_infer.files.atomic import check_target

        for path in (self.json, self.markdown, self.html, self.png):
            if path is not None:
                check_target(path)
        if self.html is not None or self.png is not None:
            check_drawing()

    def write(self, whole: BenchRecord, records: Sequence[BenchRecord]) -> int:
        """Print the report and write what was asked for; the exit code.

        Args:
            whole: all points in one record.
            records: one for each point.

        Raises:
            ConfigError: the run ended early by an error.
        """
        from bench.report import page
        from bench.report.plots import write_sheet
        from dphr_infer.files.atomic import atomic_file

        print(page.to_text(whole), end="")
        made: list[tuple[Path, str]] = []
        if self.json is not None:
            made.append((self.json, "".join(record.to_line() for record in records)))
        if self.markdown is not None:
            made.append((self.markdown, page.to_markdown(whole)))
        if self.html is not None:
            made.append((self.html, page.to_html(whole)))
        for path, text in made:
            with atomic_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        if self.png is not None:
            write_sheet(self.png, page.headline(whole), page.all_plots(whole))
        if whole.failure:
            raise ConfigError(f"It ended early, and holds what was measured until then: {whole.failure}")
        if whole.interrupted:
            return EXIT_INTERRUPTED
        return 0 if whole.valid else EXIT_INVALID


_Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Run:
    """Measure how long a photo takes from file to position with the code that dphr-infer locate runs, in several
    scenarios; throughput by batch size and matching beside the machine's measured ceilings; start-up and memory. The
    same engine and gallery must answer rightly, or the report is INVALID and the exit code 1.
    """

    request: Annotated[BenchRequest, _Flat]
    outputs: Annotated[Outputs, _Flat] = field(default_factory=Outputs)
    baton: tuple[int, int] | None = None
    """Added by dphr-bench versus: its two pipes."""

    def run(self) -> int:
        """Measure; the exit code."""
        from bench.compare.baton import Baton
        from bench.run import run_bench

        self.outputs.check()
        give_way = None
        if self.baton is not None:
            give_way = Baton(*self.baton).wait
            give_way()
        record = run_bench(self.request, give_way)
        return self.outputs.write(record, [record])


@dataclass(frozen=True)
class Sweep:
    """One figure over a grid of settings, a line of JSON for each point."""

    grid: (
        Annotated[MatchGrid, tyro.conf.subcommand("match")]
        | Annotated[EmbedGrid, tyro.conf.subcommand("embed")]
        | Annotated[FilterGrid, tyro.conf.subcommand("filter")]
    )
    outputs: Annotated[Outputs, _Flat] = field(default_factory=Outputs)

    def run(self) -> int:
        """Measure every point; the exit code. An interrupt or error keeps the points so far."""
        from bench.sampling import StopRule
        from bench.sweeps.point import collect, merge, open_bench
        from dphr_infer.measure.stats import MIN_SAMPLES_P90

        self.outputs.check()
        grid, rule = self.grid, StopRule(self.grid.seconds, self.grid.noise, MIN_SAMPLES_P90)
        if isinstance(grid, FilterGrid):
            from bench.sweeps.filter import filter_points

            points = filter_points(grid, open_bench(rule))
        elif isinstance(grid, MatchGrid):
            from bench.sweeps.match import match_points

            points = match_points(grid, open_bench(rule, grid.threads))
        else:
            from bench.sweeps.embed import embed_points

            points = embed_points(grid, open_bench(rule, grid.threads))
        records = collect(points)
        return self.outputs.write(merge(records), records)


@dataclass(frozen=True)
class Flight:
    """Fly over known maps and hold every fix against the truth.

    Each flight is flown by the code of dphr-infer flight over its own map, half of it, another's, and with a stretch
    left out. Says how often there is a fix and how far off it is, the false fixes, what protection levels and
    covariances are worth, and what a frame costs; each with its count and interval.
    """

    request: Annotated[FlightRequest, _Flat]
    outputs: Annotated[Outputs, _Flat] = field(default_factory=Outputs)

    def run(self) -> int:
        """Fly all; the exit code. An interrupt or error keeps the flights so far."""
        from bench.flights.run import run_flights

        self.outputs.check()
        record = run_flights(self.request)
        return self.outputs.write(record, [record])


def _show(report: ComparisonReport, png: Path | None) -> int:
    """Print, and draw where that was asked for; the exit code."""
    from bench.compare.plot import change_plot
    from bench.report.plots import write_sheet

    print(report.text)
    if png is not None:
        write_sheet(png, "What changed", [change_plot(item, report.fail_above) for item in report.comparisons])
    report.check_judged()
    return int(report.failed)


@dataclass(frozen=True)
class Versus:
    """Another installation and this one in turns: is this one slower?

    dphr-bench versus --baseline PROGRAM --out FOLDER [options] -- BUNDLE [GALLERY] [options of a run]

    Runs two installations in turns, a fifth of a second each, in new processes for each pair, and compares them by how
    the pairs scatter: on a machine that is shared, one run of each cannot tell 10 percent from noise. Short cases and
    many pairs are better than the reverse.
    """

    baseline: str
    """dphr-bench of the other installation."""
    out: Path
    """Folder that gets the reports of both."""
    candidate: str | None = None
    """dphr-bench of the candidate; without, this one."""
    pairs: int = 12
    """Runs of each."""
    fail_above: Share | None = None
    """Exit 1 where something is slower by more than this, as 5%."""
    png: Path | None = None
    """Draw the changes there."""

    def run(self, words: tuple[str, ...] = ()) -> int:
        """Run the pairs with the words of a run, compare them; the exit code."""
        from bench.compare.compare import compare_files
        from bench.compare.versus import OWN_PROGRAM, VersusRequest, find_program, run_versus

        Outputs(png=self.png).check()
        request = VersusRequest(
            baseline=find_program(self.baseline),
            candidate=OWN_PROGRAM if self.candidate is None else find_program(self.candidate),
            words=words[1:] if words[:1] == ("run",) else words,
            folder=self.out,
            pairs=self.pairs,
        )
        return _show(compare_files(run_versus(request), self.fail_above), self.png)


@dataclass(frozen=True)
class Compare:
    """What changed between reports: medians, intervals and ratios. Whether one program is slower, versus tells."""

    reports: tyro.conf.Positional[tuple[Path, ...]]
    """JSON of dphr-bench; the first is the baseline."""
    png: Path | None = None
    """Draw the changes there."""

    def run(self) -> int:
        """Print the comparison."""
        from bench.compare.compare import compare_files

        Outputs(png=self.png).check()
        return _show(compare_files(self.reports), self.png)


@dataclass(frozen=True)
class GpuMatching:
    """Matching on the GPU beside one read of its memory, by both scans, and beside other exact searches in turns."""

    rows: tuple[Count, ...] = (100_000, 1_000_000, 10_000_000)
    """Gallery rows."""
    dims: tuple[Count, ...] = (256, 512, 1024)
    """Dimensions."""
    queries: tuple[Count, ...] = (1, 8, 64, 512)
    """Queries per call."""
    top_k: tuple[Count, ...] = (1, 10, 100)
    """Matches per query."""
    seconds: float = 0.5
    """For each case."""
    peers: bool = True
    """Measure other searches where they are installed."""
    bandwidth: float | None = None
    """In GB/s: take this instead of measuring it, which needs nvcc."""
    outputs: Annotated[Outputs, _Flat] = field(
        default_factory=lambda: Outputs(Path("bench/reports/gpu-matching.jsonl"))
    )

    def run(self) -> int:
        """Measure every case that fits."""
        from bench.gpu.matching import measure_points, open_gpu_bench
        from bench.sweeps.point import collect, merge

        self.outputs.check()
        bench = open_gpu_bench(self.seconds, self.bandwidth)
        sizes = (self.rows, self.dims, self.queries, self.top_k)
        records = collect(measure_points(bench, *sizes, peers=self.peers))
        return self.outputs.write(merge(records), records)


@dataclass(frozen=True)
class GpuPipeline:
    """From frame to matches in one launch of the GPU, beside the sum of its stages."""

    bundle: tyro.conf.Positional[Path]
    precisions: tuple[Precision, ...] = ("fp16", "int8")
    rows: int = 100_000
    """Gallery rows."""
    seconds: float = 5.0
    """For each case."""
    outputs: Annotated[Outputs, _Flat] = field(
        default_factory=lambda: Outputs(Path("bench/reports/gpu-pipeline.jsonl"))
    )

    def run(self) -> int:
        """Measure every frame size and precision."""
        from bench.gpu.matching import open_gpu_bench
        from bench.gpu.pipeline import measure_points
        from bench.sweeps.point import collect, merge

        self.outputs.check()
        bench = open_gpu_bench(self.seconds, None)
        records = collect(measure_points(bench, self.bundle, self.precisions, self.rows))
        return self.outputs.write(merge(records), records)


@dataclass(frozen=True)
class GpuRegimes:
    """Measure on this GPU up to how many queries dot products beat tensor cores, and renew the matcher's table."""

    rows: int = 1_000_000
    """Gallery rows."""
    dims: tuple[int, ...] = (256, 512, 1024)
    """Dimensions."""
    seconds: float = 1.0
    """For each pair."""
    table: Path | None = None
    """The table to renew; without, the matcher's own."""
    dry_run: bool = False
    """Print only."""

    def run(self) -> int:
        """Measure, print, and renew the table."""
        from bench.gpu.regimes import renew

        renew(self.rows, self.dims, self.seconds, self.table, self.dry_run)
        return 0


@dataclass(frozen=True)
class Gpu:
    """Measurements that need an NVIDIA GPU."""

    kind: (
        Annotated[GpuMatching, tyro.conf.subcommand("matching")]
        | Annotated[GpuPipeline, tyro.conf.subcommand("pipeline")]
        | Annotated[GpuRegimes, tyro.conf.subcommand("regimes")]
    )

    def run(self) -> int:
        """Measure."""
        return self.kind.run()


COMMANDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in (Run, Flight, Sweep, Versus, Compare, Gpu)}
