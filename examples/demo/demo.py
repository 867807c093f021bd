"""The main job from end to end, step by step, each with the command that does it: `python examples/demo/demo.py`.

A step is skipped when its command, its code and everything before it are unchanged since it last finished; a step that
was interrupted is continued where its command can continue, and done again where it cannot.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from summary import Results, format_summary, read_results

from dphr_infer.cli.terminal import run_command
from dphr_infer.errors import DphrError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.measure.progress import format_duration

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = Path("samples")
SAMPLE_BUNDLE = SAMPLES / "bundle"
BRIGHTON = SAMPLES / "brighton_beach"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the demo.

    Attributes:
        name: for --only and the stamp file.
        title: what happens, for people.
        command: program and arguments, as a user would type them in the repository's root.
        makes: files and folders that the command writes; removed before it runs again from the start.
        needs: names of the steps before it whose results it reads.
        code: top-level folders whose source decides its result.
        resume: arguments that continue an interrupted run; None where it starts again.
    """

    name: str
    title: str
    command: tuple[str, ...]
    makes: tuple[Path, ...]
    needs: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    resume: tuple[str, ...] | None = None


_CITIES = (
    "--seed", "0", "--train-cities", "3", "--train-places", "300", "--test-places", "120", "--distractors", "30",
    "--image-px", "160",
)  # fmt: skip
_TRAINING = ("--optim.steps", "180", "--loss.dphr.window", "10", "--loss.dphr.beta", "0.9")


def training_steps(out: Path) -> list[Step]:
    """Render, train, evaluate, export."""
    cities, run, bundle = out / "cities", out / "train", out / "bundle"
    return [
        Step(
            "render",
            "Render three training cities and one that training never sees, in University-1652's layout",
            ("dphr-train", "cities", "university1652", str(cities), *_CITIES),
            (cities,),
            code=("dphr_train/cities",),
            resume=(),
        ),
        Step(
            "flight",
            "Fly a drone over the unseen city: 60 photos, their true positions, and a satellite mosaic as GeoTIFF",
            ("dphr-train", "cities", "flight", str(out / "flight"),
             "--seed", "0", "--image-px", "320", "--frames", "60"),
            (out / "flight",),
            code=("dphr_train/cities",),
            resume=(),
        ),
        Step(
            "train",
            "Train EfficientNet-Lite0 from its ImageNet weights with InfoNCE and DPHR",
            ("dphr-train", "fit", "--out", str(run), "--data.root", str(cities), *_TRAINING),
            (run,),
            ("render",),
            ("dphr_train", "dphr_infer"),
            resume=("--resume",),
        ),
        Step(
            "evaluate",
            "Evaluate it on the unseen city, with a picture of the worst failures",
            ("dphr-train", "evaluate", str(run), "--data", str(cities), "--out", str(out / "evaluation.json"),
             "--failures", str(out / "failures.png")),
            (out / "evaluation.json", out / "failures.png"),
            ("train",),
            ("dphr_train", "dphr_infer"),
        ),
        Step(
            "export",
            "Export it as a bundle: ONNX in fp32 and fp16, behind the parity gate",
            ("dphr-export", "bundle", str(run), "--data", str(cities), "--out", str(bundle), "--optional", "fp16"),
            (bundle,),
            ("train",),
            ("export", "dphr_train", "dphr_infer"),
        ),
    ]  # fmt: skip


def locating_steps(out: Path, label: str, title: str, bundle: Path, needs: tuple[str, ...]) -> list[Step]:
    """Index both maps and locate both flights with one bundle."""
    steps = []
    places = (
        ("flight", f"the unseen city, {title}", out / "flight/mosaic.tif", out / "flight/photos",
         ("--tile-m", "160", "--stride-m", "40"), ("--truth", str(out / "flight/truth.csv")), ("flight",)),
        ("brighton", f"Brighton Beach, real photos, {title}", BRIGHTON / "brighton_beach.tif", BRIGHTON / "photos",
         ("--tile-m", "26", "--stride-m", "2", "--max-nodata", "0.5"),
         ("--truth", str(BRIGHTON / "truth.csv"), "--heading", "north"), ()),
    )  # fmt: skip
    for place, place_title, mosaic, photos, tiles, options, place_needs in places:
        gallery, found = out / f"{place}-{label}.gallery", out / f"{place}-{label}"
        verified = out / f"{place}-{label}-verified"
        steps += [
            Step(
                f"index-{place}-{label}",
                f"Index {place_title}",
                ("dphr-infer", "index", str(bundle), str(mosaic), *tiles, "--out", str(gallery)),
                (gallery,),
                (*needs, *place_needs),
                ("dphr_infer",),
            ),
            Step(
                f"locate-{place}-{label}",
                f"Locate the photos over {place_title}: by retrieval alone",
                ("dphr-infer", "locate", str(bundle), str(gallery), str(photos), *options, "--rectify", "off",
                 "--map", str(mosaic), "--no-verify", "--picture", str(found),
                 "--summary", str(found.with_suffix(".json"))),
                (found, found.with_suffix(".json")),
                (f"index-{place}-{label}",),
                ("dphr_infer",),
            ),
            Step(
                f"verify-{place}-{label}",
                "And rectified, and verified on the map",
                ("dphr-infer", "locate", str(bundle), str(gallery), str(photos), *options[:2], "--map", str(mosaic),
                 "--picture", str(verified), "--summary", str(verified.with_suffix(".json"))),
                (verified, verified.with_suffix(".json")),
                (f"index-{place}-{label}",),
                ("dphr_infer",),
            ),
        ]  # fmt: skip
    return steps


def all_steps(out: Path) -> list[Step]:
    """The whole demo in order."""
    cities = str(out / "cities")
    return [
        *training_steps(out),
        *locating_steps(out, "fresh", "with the model trained just now", out / "bundle", ("export",)),
        Step(
            "evaluate-shipped",
            "Evaluate the shipped bundle, trained longer by the same recipe, on the same unseen city",
            ("dphr-train", "evaluate", str(SAMPLE_BUNDLE), "--data", cities,
             "--out", str(out / "evaluation-shipped.json"), "--failures", str(out / "failures-shipped.png")),
            (out / "evaluation-shipped.json", out / "failures-shipped.png"),
            ("render",),
            ("dphr_train", "dphr_infer"),
        ),
        *locating_steps(out, "shipped", "with the shipped bundle", SAMPLE_BUNDLE, ()),
        Step(
            "bench",
            "Measure latency, stage by stage and end to end",
            ("dphr-bench", "run", str(SAMPLE_BUNDLE), str(out / "flight-shipped.gallery"), "--images",
             str(out / "flight/photos"), "--json", str(out / "bench.json"), "--html", str(out / "bench.html")),
            (out / "bench.json", out / "bench.html"),
            ("index-flight-shipped",),
            ("bench", "export/graph/cost.py", "dphr_infer"),
        ),
    ]  # fmt: skip


class Demo:
    """Runs the steps that are not up to date."""

    def __init__(self, out: Path, steps: list[Step]) -> None:
        self._out, self._steps = out, steps
        self._keys: dict[str, str] = {}
        for step in steps:
            parts = [*step.command, *(self._keys[name] for name in step.needs), *map(_source_digest, step.code)]
            parts += [_source_digest(part) for part in step.command if part.startswith(str(SAMPLES))]
            self._keys[step.name] = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def run(self, only: str | None) -> None:
        """Run all steps, or one and what it needs."""
        wanted = self._wanted(only)
        for number, step in enumerate(self._steps, 1):
            if step.name not in wanted:
                continue
            print(f"\n[{number}/{len(self._steps)}] {step.title}", flush=True)
            if self._stamp(step, "done") == self._keys[step.name] and all(path.exists() for path in step.makes):
                print("  unchanged since it last ran", flush=True)
                continue
            self._run_step(step)

    def seconds(self) -> dict[str, float]:
        """{step: seconds that it took when it last ran}."""
        found = {}
        for step in self._steps:
            path = self._out / ".steps" / f"{step.name}.seconds"
            if path.is_file():
                found[step.name] = float(path.read_text())
        return found

    def _wanted(self, only: str | None) -> set[str]:
        by_name = {step.name: step for step in self._steps}
        if only is None:
            return set(by_name)
        if only not in by_name:
            raise DphrError(f"The demo has no step {only!r}; its steps are {', '.join(by_name)}.")
        wanted, queue = set(), [only]
        while queue:
            name = queue.pop()
            wanted.add(name)
            queue += by_name[name].needs
        return wanted

    def _run_step(self, step: Step) -> None:
        command = step.command
        interrupted = self._stamp(step, "begun") == self._keys[step.name] and step.resume is not None
        if interrupted and all(path.exists() for path in step.makes):
            command = (*command, *(step.resume or ()))
        else:
            for path in step.makes:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        program, *arguments = command
        print(f"  $ {shlex.join([Path(program).name, *arguments])}", flush=True)
        self._write(step, "begun", self._keys[step.name])
        started = time.monotonic()
        executable = program if Path(program).is_absolute() else str(Path(sys.executable).parent / program)
        code = subprocess.run([executable, *arguments], cwd=REPOSITORY, check=False).returncode
        if code:
            raise DphrError(f"The step {step.name} ended with exit code {code}. Its message is above.")
        self._write(step, "seconds", f"{time.monotonic() - started:.1f}")
        self._write(step, "done", self._keys[step.name])
        print(f"  took {format_duration(time.monotonic() - started)}", flush=True)

    def _stamp(self, step: Step, kind: str) -> str:
        path = self._out / ".steps" / f"{step.name}.{kind}"
        return path.read_text() if path.is_file() else ""

    def _write(self, step: Step, kind: str, text: str) -> None:
        with atomic_file(self._out / ".steps" / f"{step.name}.{kind}") as temporary:
            temporary.write_text(text)


def _source_digest(name: str) -> str:
    """Digest of a file, or of every source and data file below a folder."""
    top = REPOSITORY / name
    files = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        if "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(REPOSITORY)).encode() + path.read_bytes())
    return digest.hexdigest()


def _run(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    started = time.monotonic()
    demo = Demo(out, all_steps(out))
    demo.run(arguments.only)
    if arguments.only is None:
        results: Results = read_results(out, demo.seconds(), time.monotonic() - started)
        text = format_summary(results, out)
        with atomic_file(out / "summary.json") as temporary:
            temporary.write_text(json.dumps(results.to_json(), indent=2) + "\n")
        print(text)


def main() -> None:
    """Entry point of `python examples/demo/demo.py`."""
    parser = argparse.ArgumentParser(prog="python examples/demo/demo.py", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder of all results (default: runs/demo)"
    )
    parser.add_argument("--only", metavar="STEP", help="run one step and what it needs")
    arguments = parser.parse_args()
    sys.exit(run_command("demo", lambda: _run(arguments)))


if __name__ == "__main__":
    main()
