"""What a run leaves for people: metrics.jsonl, TensorBoard events, curves.png."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import TracebackType

from dphr_infer.files.atomic import atomic_file, storage_error

_logger = logging.getLogger(__name__)


class RunLog:
    """Writes each step's terms to metrics.jsonl and TensorBoard. A context manager."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "metrics.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._keep_before(first_step)
            self._file = self._path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        except OSError as error:
            raise storage_error(folder, error) from error

    def _keep_before(self, step: int) -> None:
        """Drop the lines of steps that will be run again."""
        kept = [line for line in read_metrics(self._path) if line["step"] < step]
        with atomic_file(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, terms: dict[str, float]) -> None:
        """Record one step.

        Raises:
            StorageError: the disk is full; the last checkpoint stays.
        """
        try:
            self._file.write(json.dumps({"step": step, **terms}) + "\n")
            self._file.flush()
        except OSError as error:
            raise storage_error(self._path, error) from error
        for name, value in terms.items():
            self._board.add_scalar(name, value, step)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The steps of a metrics.jsonl, each with its "step"; an empty list where there is no file.

    A last line that was cut short is left out. So is a damaged line, with a warning: the run itself lies in the
    checkpoint, and the other lines stay.
    """
    if not path.is_file():
        return []
    whole, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    found: list[dict[str, float]] = []
    damaged: list[int] = []
    for number, line in enumerate(whole.split("\n") if whole else [], start=1):
        try:
            terms = json.loads(line)
            if not isinstance(terms, dict) or not isinstance(terms["step"], int):
                raise ValueError
            found.append({name: float(value) if name != "step" else value for name, value in terms.items()})
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged.append(number)
    if damaged:
        _logger.warning(
            f"{path} has {len(damaged)} damaged lines of {len(found) + len(damaged)} (the first: line {damaged[0]}): "
            "their steps are missing in curves and sums, the run itself is whole."
        )
    return found


_PANELS = (
    ("loss", ("loss", "infonce")),
    ("triplet terms", ("triplet", "weighted_triplet")),
    ("PALW", ("lambda", "alpha")),
    ("mean weight", ("mean_weight",)),
    ("learning rate", ("learning_rate",)),
    ("images/s", ("images_per_s",)),
)


def draw_curves(metrics: list[dict[str, float]], path: Path) -> None:
    """Write the curves of a run as a PNG."""
    from matplotlib.figure import Figure

    # Margins of their own: matplotlib's constrained layout takes a second, longer than all else of a short run's end.
    figure = Figure(figsize=(11, 6))
    figure.subplots_adjust(left=0.06, bottom=0.08, right=0.985, top=0.95, wspace=0.28, hspace=0.35)
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in metrics if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
        if axes.lines:
            axes.legend(fontsize=8)
        axes.locator_params(nbins=5)
        axes.tick_params(labelsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
