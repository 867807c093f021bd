"""The training loop: one plain loop over pairs, with its state in checkpoints so that a run continues exactly."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError, DphrError, TrainingError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.measure.progress import Progress
from dphr_train.checkpoint import LAST_CHECKPOINT, Checkpoint, read_checkpoint, write_checkpoint
from dphr_train.config import TrainConfig
from dphr_train.config_json import MAY_DIFFER, config_to_json, differing_settings, flat_settings
from dphr_train.datasets.open import open_dataset
from dphr_train.datasets.pairs import BatchPlan, PairBatch, PairDataset, open_loader
from dphr_train.distributed import World, broadcast_from_first, share_rows
from dphr_train.encoder import Encoder, load_exactly, load_pretrained
from dphr_train.evaluate import directions_to_json, evaluate, network_embedder
from dphr_train.objective import Objective
from dphr_train.run_log import RunLog, draw_curves, read_metrics
from dphr_train.run_record import RunRecord, describe_data, describe_environment, git_revision, write_record
from dphr_train.samplers.neighbours import most_similar
from dphr_train.samplers.open import open_sampler
from dphr_train.schedule import CollapseWatch, learning_rate_at
from dphr_train.step import PairStep

_SCALER_START = 2.0**10


class Trainer:
    """One run, or this process's part of it. Everything that the next step depends on is in the checkpoint.

    Raises:
        DatasetError, TrainingError, CheckpointError, ConfigError: the run cannot start as asked.
    """

    def __init__(self, config: TrainConfig, resume: bool = False, world: World | None = None) -> None:
        if config.optim.precision == "fp16" and not config.device.startswith("cuda"):
            raise ConfigError(
                f"optim.precision fp16 needs a CUDA device, the device is {config.device}: use bf16 or fp32."
            )
        require_device(config.device)
        self.config, self.world = config, world or World()
        torch.manual_seed(config.seed)
        data = open_dataset(config.data.dataset, config.data.root)
        self.split, self.directions = data.train_split(), data.test_directions()
        self.data = describe_data(config.data.root, leave_out=config.out)
        self.sampler = open_sampler(config.sampler, self.split, config.optim.batch_size, config.seed)
        self.steps = config.optim.steps or max(1, round(config.optim.epochs * self.sampler.steps_per_epoch))
        self._plan = BatchPlan()
        dataset = PairDataset(self.split, config.data, config.augment, config.seed)
        self._loader = open_loader(dataset, self._plan, config.data.workers)
        self.encoder = Encoder(config.model, config.data.image_px, config.data.ground_px)
        load_pretrained(self.encoder, config.model.weights)
        self.encoder.to(config.device, memory_format=torch.channels_last).train()
        places = sorted({pair.place_id for pair in self.split.pairs})
        self.objective = Objective(config.loss, places, self.encoder.n_parts, self.encoder.part_dim).to(config.device)
        self.parameters = [*self.encoder.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.optim.learning_rate, weight_decay=config.optim.weight_decay
        )
        self.scaler = torch.amp.GradScaler(
            config.device.split(":")[0], _SCALER_START, enabled=config.optim.precision == "fp16"
        )
        self.compute = PairStep(self.encoder, self.objective, config.optim, self.world, self.scaler)
        self.step = self.epoch = self.offset = 0
        self._clock = time.monotonic()
        self.metrics: dict[str, Any] = {}
        if resume:
            self._resume(read_checkpoint(config.out / LAST_CHECKPOINT))
        elif (config.out / LAST_CHECKPOINT).exists():
            raise ConfigError(
                f"{config.out} holds a run already: add --resume to continue it, or choose another --out."
            )

    def run(self) -> dict[str, Any]:
        """Train to the last step, evaluate where a test split exists, and return the metrics.

        Raises:
            TrainingError: the loss is not finite; the last good checkpoint stays.
        """
        config, first = self.config, self.world.rank == 0
        if first:
            with atomic_file(config.out / "config.json") as temporary:
                temporary.write_text(json.dumps(config_to_json(config), indent=2) + "\n")
        watch = CollapseWatch(config.optim.batch_size)
        with ExitStack() as stack:
            log = stack.enter_context(RunLog(config.out, self.step)) if first else None
            progress = stack.enter_context(Progress("train", self.steps, "steps")) if first else None
            if progress:
                progress.resume_at(self.step)
            if self._evaluation_is_due():  # the run was interrupted while it evaluated
                self._evaluate()
            self._clock = time.monotonic()
            for batch in self.batches(self.steps - self.step):
                waited = time.monotonic() - self._clock
                terms = self.train_step(batch)
                seconds = time.monotonic() - self._clock
                rate = 2 * config.optim.batch_size / seconds
                terms |= {"images_per_s": rate, "seconds": seconds, "seconds_waited": waited}
                if log and progress:
                    log.write(self.step - 1, terms)
                    progress.advance(text=f"loss {terms['loss']:.3f}, {rate:.0f} images/s")
                if "infonce" in terms and not self.metrics.get("collapsed") and watch.update(terms["infonce"]):
                    self._note_collapse(watch.mean)
                if self.step % config.checkpoint_every == 0:
                    self.save()
                if self.step < self.steps and self._evaluation_is_due():
                    self._evaluate()
                self._clock = time.monotonic()
        self.save()
        if not self._has_evaluated():
            self._evaluate()
        if first:
            self._record()
        return self.metrics

    def batches(self, count: int) -> Iterator[PairBatch]:
        """The next `count` batches, this process's share of each, over as many epochs as that takes."""
        left = count
        while left > 0:
            if self.offset == 0 and self.sampler.wants_refresh(self.epoch):
                self.sampler.neighbours = self._most_similar()
                self._clock = time.monotonic()
            batches = self.sampler.batches(self.epoch)
            if not batches:
                raise TrainingError(
                    f"Epoch {self.epoch} has no whole batch of {self.config.optim.batch_size} different places: "
                    "lower optim.batch-size."
                )
            todo = batches[self.offset : self.offset + left]
            rows = share_rows(self.config.optim.batch_size, self.world)
            self._plan.set(self.epoch, [batch[rows] for batch in todo])
            for batch in self._loader:
                if isinstance(batch, DphrError):  # of a worker, whole
                    raise batch
                self.offset += 1
                left -= 1
                yield batch
            if self.offset == len(batches):
                self.epoch, self.offset = self.epoch + 1, 0

    def train_step(self, batch: PairBatch) -> dict[str, float]:
        """One optimisation step on one batch; returns its terms by name.

        Raises:
            TrainingError: the loss is not finite; no weight has changed.
        """
        optim = self.config.optim
        torch.manual_seed(_step_seed(self.config.seed, self.step, self.world.rank))
        rate = learning_rate_at(self.step, self.steps, optim.learning_rate, optim.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self.compute.backward(batch)
        if not math.isfinite(terms["loss"]):
            raise TrainingError(
                f"The loss is {terms['loss']} at step {self.step} of {self.steps}. {self._kept()} Lower "
                f"optim.learning-rate ({optim.learning_rate}) or use fp32."
            )
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_value_(self.parameters, optim.clip_value)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return terms | {"learning_rate": rate}

    def save(self) -> None:
        """Write the checkpoint of the current step; the first process does, the others need none.

        Raises:
            TrainingError: a weight is not finite; the last good checkpoint stays.
            StorageError: no space or no permission; likewise.
        """
        if self.world.rank != 0:
            return
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters):
            raise TrainingError(
                f"Weights are not finite after step {self.step} of {self.steps}. {self._kept()} Lower "
                f"optim.learning-rate ({self.config.optim.learning_rate}) or use fp32."
            )
        lists = self.sampler.neighbours
        write_checkpoint(
            self.config.out / LAST_CHECKPOINT,
            Checkpoint(
                config=self.config,
                step=self.step,
                epoch=self.epoch,
                offset=self.offset,
                processes=self.world.size,
                data_sha256=self.data["listing_sha256"],
                encoder=self.encoder.state_dict(),
                objective=self.objective.state_dict(),
                optimizer=self.optimizer.state_dict()["state"],
                neighbours=None if lists is None else torch.from_numpy(lists.astype(np.int32)),
                palw=self.objective.dphr.palw.state() if self.objective.dphr else {},
                scaler=self.scaler.state_dict(),
                metrics=self.metrics,
            ),
        )

    def _resume(self, checkpoint: Checkpoint) -> None:
        _check_same_run(self.config, checkpoint.config)
        if checkpoint.processes != self.world.size:
            raise ConfigError(
                f"The run was made by {checkpoint.processes} processes, this is {self.world.size}: batch norm and drop "
                f"path would go on differently. Start it with torchrun --nproc-per-node={checkpoint.processes}."
            )
        if checkpoint.data_sha256 != self.data["listing_sha256"]:
            raise ConfigError(
                f"The run began on images with the listing {checkpoint.data_sha256[:12]}; {self.config.data.root} has "
                f"{self.data['listing_sha256'][:12]} ({self.data['images']} images): give the data set that it began "
                "with, or start a new run in another --out."
            )
        source = str(self.config.out / LAST_CHECKPOINT)
        load_exactly(self.encoder, checkpoint.encoder, source)
        load_exactly(self.objective, checkpoint.objective, source)
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**state, "state": checkpoint.optimizer})
        for parameter, moments in self.optimizer.state.items():  # in the parameters' memory order, or steps are slow
            for name, value in moments.items():
                if value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)
        if self.objective.dphr is not None:
            self.objective.dphr.palw.load_state(checkpoint.palw)
        if checkpoint.scaler:
            self.scaler.load_state_dict(checkpoint.scaler)
        if checkpoint.neighbours is not None:
            self.sampler.neighbours = checkpoint.neighbours.numpy().astype(np.int64)
        self.step, self.metrics = checkpoint.step, checkpoint.metrics
        self.epoch, self.offset = checkpoint.epoch, checkpoint.offset

    def _most_similar(self) -> NDArray[np.int64]:
        """Lists for the sampler from the embedding as it is now: each place by its first pair."""
        found: NDArray[np.int64] | None = None
        places = {pair.place_id: pair for pair in reversed(self.split.pairs)}
        count = min(self.config.sampler.range, len(places) - 1)
        if self.world.rank == 0:
            pairs = [places[place] for place in sorted(places)]
            embed = network_embedder(self.encoder, self.config.data.preprocess, self.config.device)
            queries = embed([pair.query for pair in pairs], self.split.query_view, "embed train queries")
            references = embed([pair.reference for pair in pairs], "satellite", "embed train references")
            found = most_similar(queries, references, count)
        return broadcast_from_first(found, (len(places), count), self.world, self.config.device)

    def _kept(self) -> str:
        path = self.config.out / LAST_CHECKPOINT
        return f"The last good checkpoint is kept: {path}." if path.exists() else "No checkpoint has been written yet."

    def _has_evaluated(self) -> bool:
        return str(self.step) in self.metrics.get("evaluations", {})

    def _evaluation_is_due(self) -> bool:
        every = self.config.evaluate_every
        return every > 0 and self.step > 0 and self.step % every == 0 and not self._has_evaluated()

    def _evaluate(self) -> None:
        """Evaluate on the test split and keep the figures, in the checkpoint too."""
        if self.world.rank != 0:
            return
        data = self.config.data
        if not self.directions:
            print(f"{data.root} has no test split: nothing is evaluated.", file=sys.stderr)
            return
        ranked = evaluate(network_embedder(self.encoder, data.preprocess, self.config.device), self.directions)
        self.metrics.setdefault("evaluations", {})[str(self.step)] = directions_to_json(ranked)
        self.save()
        report = ranked[0].reports["full"]
        print(
            f"step {self.step}: {ranked[0].name} R@1 {100 * report.recall_at[1]:.2f} "
            f"AP {100 * report.ap:.2f} ({report.n_queries} in {report.n_gallery})",
            file=sys.stderr,
        )

    def _record(self) -> None:
        config = self.config
        steps = read_metrics(config.out / "metrics.jsonl")
        draw_curves(steps, config.out / "curves.png")
        write_record(
            config.out,
            RunRecord(
                config=config,
                steps=self.step,
                git=git_revision(Path(__file__).parent),
                data=self.data,
                environment=describe_environment(config.device, self.world.size),
                seconds=sum(line["seconds"] for line in steps),
                metrics=self.metrics,
            ),
        )

    def _note_collapse(self, infonce: float) -> None:
        self.metrics["collapsed"] = self.step
        if self.world.rank == 0:
            print(
                f"\nCollapse: InfoNCE has stayed at {infonce:.2f}, near ln(batch) = "
                f"{math.log(self.config.optim.batch_size):.2f}, for 50 steps up to step {self.step}: the embeddings "
                f"tell nothing apart. Lower optim.learning-rate ({self.config.optim.learning_rate}) or raise the batch "
                "size.",
                file=sys.stderr,
            )


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of one step's random choices in the network (drop path, dropout), different in every process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def require_device(device: str) -> None:
    """Refuse a device that this torch does not have.

    Raises:
        ConfigError: not "cpu" or "cuda[:number]", or no such GPU.
    """
    name, _, number = device.partition(":")
    if name not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ConfigError(f"The device {device!r} is unknown; choose cpu, cuda or cuda:NUMBER.")
    if name == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"The device is {device}, but this torch sees {torch.cuda.device_count()} CUDA GPUs: use --device cpu."
        )


def _check_same_run(asked: TrainConfig, stored: TrainConfig) -> None:
    """Refuse to continue a run under settings that change its next step."""
    differ = differing_settings(asked, stored, MAY_DIFFER)
    if differ:
        name = differ[0]
        raise ConfigError(
            f"--resume needs the settings of the run that it continues: {name} is {flat_settings(asked)[name]}, the "
            f"checkpoint has {flat_settings(stored)[name]}. Give the same value, or start a new run in another --out."
        )
