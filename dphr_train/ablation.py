"""The ablation of DPHR's parts (the paper's Table 3): the same runs but for the loss, over several seeds.

Every row trains with the same seeds, so the rows see the same pairs in the same order under the same augmentation, and
their differences are paired by seed. A run that ended is not made again; one that was interrupted continues.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dphr_infer.atomic import atomic_file
from dphr_infer.errors import ConfigError
from dphr_train.checkpoint import LAST_CHECKPOINT
from dphr_train.compare import Row, draw_rows, make_row, rows_to_json, to_markdown
from dphr_train.config import DphrConfig, TrainConfig
from dphr_train.config_json import config_to_json
from dphr_train.run_record import RECORD_FILE, RunRecord, read_record

BASE, FULL = "base: InfoNCE", "DPHR: RDA and PALW"
_SWITCHES = {
    BASE: (False, False, False),
    "+ L_tri": (True, False, False),
    "+ L_tri + RDA, λ = 1": (True, True, False),
    "+ L_tri + PALW, w = 1": (True, False, True),
    FULL: (True, True, True),
}
ROWS = tuple(_SWITCHES)
_FOLDERS = dict(zip(ROWS, ("base", "triplet", "rda", "palw", "dphr"), strict=True))


def row_config(config: TrainConfig, row: str, seed: int, out: Path) -> TrainConfig:
    """The run of one row and seed: `config` but for the loss's switches, the seed and the folder."""
    triplet, rda, palw = _SWITCHES[row]
    dphr: DphrConfig = dataclasses.replace(config.loss.dphr, triplet=triplet, rda=rda, palw=palw)
    loss = dataclasses.replace(config.loss, dphr=dphr)
    return dataclasses.replace(config, loss=loss, seed=seed, out=out / f"{_FOLDERS[row]}-seed{seed}")


def _finished(config: TrainConfig) -> RunRecord | None:
    """The record of a run that ended with these settings; None where it has to be made.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    if not (config.out / RECORD_FILE).is_file():
        return None
    record = read_record(config.out)
    if config_to_json(record.config)["loss"] != config_to_json(config)["loss"] or record.config.optim != config.optim:
        raise ConfigError(f"{config.out} holds a run with other settings: choose another --out for this ablation.")
    return record


def run_ablation(config: TrainConfig, seeds: Sequence[int], rows: Sequence[str] = ROWS) -> list[Row]:
    """Train what is missing, seed by seed, and write ablation.json, .md and .png into config.out after every run.

    Raises:
        ConfigError, DatasetError, TrainingError: as Trainer; what has ended before stays.
    """
    from dphr_train.trainer import Trainer

    found: dict[str, dict[int, RunRecord]] = {row: {} for row in rows}
    for row, seed in _order(rows, seeds):
        run = row_config(config, row, seed, config.out)
        record = _finished(run)
        if record is None:
            print(f"{row}, seed {seed} -> {run.out}", file=sys.stderr)
            Trainer(run, resume=(run.out / LAST_CHECKPOINT).exists()).run()
            record = read_record(run.out)
        found[row][seed] = record
        _write(config.out, found)
    return _rows(found)


def _order(rows: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Seed by seed, so that an ablation that is stopped early has every row."""
    return ((row, seed) for seed in seeds for row in rows)


def _rows(found: dict[str, dict[int, RunRecord]]) -> list[Row]:
    return [
        make_row(row, {seed: record.evaluation() for seed, record in records.items()})
        for row, records in found.items()
        if records
    ]


def _write(out: Path, found: dict[str, dict[int, RunRecord]]) -> None:
    rows = _rows(found)
    records = [record for by_seed in found.values() for record in by_seed.values()]
    config = config_to_json(records[0].config)
    del config["out"], config["seed"], config["data"]["root"]  # each row's own, and the machine's
    summary = {
        "rows": rows_to_json(rows),
        "config": config,
        "data": {name: value for name, value in records[0].data.items() if name != "root"},
        "environment": records[0].environment,
        "git": records[0].git,
    }
    with atomic_file(out / "ablation.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with atomic_file(out / "ablation.md") as temporary:
        temporary.write_text(to_markdown(rows), encoding="utf-8")
    draw_rows(rows, out / "ablation.png", "Ablation of DPHR: mean over seeds (bars), each seed (dots)")
