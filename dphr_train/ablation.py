"""The ablation of DPHR's parts (the paper's Table 3): the same runs but for the loss, over several seeds.

Every row trains with the same seeds, so the rows see the same pairs in the same order under the same augmentation, and
their differences are paired by seed. A run that ended is not made again; one that was interrupted continues.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dphr_infer.errors import ConfigError, DatasetError
from dphr_infer.files.atomic import atomic_file
from dphr_train.checkpoint import LAST_CHECKPOINT
from dphr_train.compare import Row, draw_rows, make_row, mark_collapsed, rows_to_json, to_markdown
from dphr_train.config import DphrConfig, TrainConfig
from dphr_train.config_json import MAY_DIFFER, config_to_json, differing_settings, flat_settings
from dphr_train.datasets.open import open_dataset
from dphr_train.run_record import RECORD_FILE, RunRecord, describe_data, read_record

_logger = logging.getLogger(__name__)

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


def _finished(config: TrainConfig, data: dict[str, Any]) -> RunRecord | None:
    """The record of a run that ended with these settings on these data; None where it has to be made.

    Raises:
        ConfigError: the folder holds a run with other settings or on other data.
    """
    if not (config.out / RECORD_FILE).is_file():
        return None
    record = read_record(config.out)
    differ = differing_settings(config, record.config, MAY_DIFFER)
    if differ:
        asked, stored = flat_settings(config)[differ[0]], flat_settings(record.config)[differ[0]]
        raise ConfigError(
            f"{config.out} holds a run with other settings: {differ[0]} is {asked} here and {stored} there. Give the "
            "same value, or choose another --out."
        )
    if record.data["listing_sha256"] != data["listing_sha256"]:
        raise ConfigError(
            f"{config.out} holds a run on other data: the listing of {data['root']} has the digest "
            f"{data['listing_sha256'][:8]}, its data had {record.data['listing_sha256'][:8]}. Give the data that "
            "it was trained on, or choose another --out."
        )
    return record


def _require_possible(config: TrainConfig, seeds: Sequence[int]) -> None:
    """Refuse what would be found out only after hours of training.

    Raises:
        ConfigError: no seed, a seed twice, or an --out inside the data set.
        DatasetError: there is no test split, or it cannot be read.
    """
    if not seeds:
        raise ConfigError("No seed is given: an ablation needs at least 1, for example --seeds 0 1 2.")
    twice = [seed for number, seed in enumerate(seeds) if seed in seeds[:number]]
    if twice:
        raise ConfigError(f"The seed {twice[0]} is given twice: it would be the same run again. Give each seed once.")
    root = config.data.root
    if config.out.resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            f"--out {config.out} lies inside the data set {root}: a run's plots would count as images of the next "
            "run's data. Choose an --out elsewhere."
        )
    if not open_dataset(config.data.dataset, root).test_directions():
        raise DatasetError(f"{root} has no test split: an ablation compares test figures. Add the split's folders.")


def run_ablation(config: TrainConfig, seeds: Sequence[int], rows: Sequence[str] = ROWS) -> list[Row]:
    """Train what is missing, seed by seed, and write ablation.json, .md and .png into config.out after every run.

    Raises:
        ConfigError: before any training, no seed, a seed twice, an --out inside the data set, or a folder that holds a
            run with other settings or on other data.
        DatasetError: likewise, there is no test split.
        ConfigError, DatasetError, TrainingError: as Trainer; what has ended before stays.
    """
    from dphr_train.trainer import Trainer

    _require_possible(config, seeds)
    data = describe_data(config.data.root)
    runs = {(row, seed): row_config(config, row, seed, config.out) for row, seed in _order(rows, seeds)}
    finished = {key: _finished(run, data) for key, run in runs.items()}
    found: dict[str, dict[int, RunRecord]] = {row: {} for row in rows}
    for (row, seed), run in runs.items():
        record = finished[row, seed]
        if record is None:
            _logger.info(f"{row}, seed {seed} -> {run.out}")
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
        make_row(mark_collapsed(row, records), {seed: record.evaluation() for seed, record in records.items()})
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
