"""The training loop: one plain loop over pairs, with its state in checkpoints so that a run continues exactly."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError, DphrError, TrainingError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.measure.clock import now_s
from dphr_infer.measure.progress import Progress
from dphr_train.build import build_parts
from dphr_train.checkpoint import LAST_CHECKPOINT, read_checkpoint, write_checkpoint
from dphr_train.config import TrainConfig
from dphr_train.config_json import config_to_json
from dphr_train.datasets.pairs import PairBatch
from dphr_train.distributed import World, broadcast_from_first, share_rows
from dphr_train.evaluate import directions_to_json, evaluate, network_embedder
from dphr_train.run_log import RunLog, draw_curves, read_metrics
from dphr_train.run_record import RunRecord, describe_environment, git_revision, write_record
from dphr_train.samplers.neighbours import most_similar
from dphr_train.schedule import CollapseWatch, learning_rate_at
from dphr_train.state import RunState, restore_checkpoint, take_checkpoint
from dphr_train.step import PairStep

_logger = logging.getLogger(__name__)


class Trainer:
    """One run, or this process's part of it. Everything that the next step depends on is in the checkpoint.

    Attributes:
        parts: what the run works with.
        state: where it stands.
        compute: gradient of one batch.

    Raises:
        DatasetError, TrainingError, CheckpointError, ConfigError: the run cannot start as asked.
    """

    def __init__(self, config: TrainConfig, resume: bool = False, world: World | None = None) -> None:
        self.config, self.world = config, world or World()
        self.parts = parts = build_parts(config)
        self.compute = PairStep(parts.encoder, parts.objective, config.optim, self.world, parts.scaler)
        self.state = RunState(CollapseWatch(config.optim.batch_size))
        self._clock = now_s()
        last = config.out / LAST_CHECKPOINT
        if resume:
            self.state = restore_checkpoint(read_checkpoint(last), parts, config, self.world)
        elif last.exists():
            raise ConfigError(
                f"{config.out} holds a run already: add --resume to continue it, or choose another --out."
            )

    def run(self) -> dict[str, Any]:
        """Train to the last step, evaluate where a test split exists, and return the metrics.

        Raises:
            TrainingError: the loss is not finite; the last good checkpoint stays.
        """
        config, state, first = self.config, self.state, self.world.rank == 0
        steps = self.parts.steps
        if first:
            with atomic_file(config.out / "config.json") as temporary:
                temporary.write_text(json.dumps(config_to_json(config), indent=2) + "\n")
        with ExitStack() as stack:
            log = stack.enter_context(RunLog(config.out, state.step)) if first else None
            progress = stack.enter_context(Progress("train", steps, "steps")) if first else None
            if progress:
                progress.resume_at(state.step)
            if self._evaluation_is_due():  # the run was interrupted while it evaluated
                self._evaluate()
            self._clock = now_s()
            for batch in self.batches(steps - state.step):
                waited = now_s() - self._clock
                terms = self.train_step(batch)
                seconds = now_s() - self._clock
                rate = 2 * config.optim.batch_size / seconds
                terms |= {"images_per_s": rate, "seconds": seconds, "seconds_waited": waited}
                if log and progress:
                    log.write(state.step - 1, terms)
                    progress.advance(text=f"loss {terms['loss']:.3f}, {rate:.0f} images/s")
                self._watch_collapse(terms)
                if state.step % config.checkpoint_every == 0:
                    self.save()
                if state.step < steps and self._evaluation_is_due():
                    self._evaluate()
                self._clock = now_s()
        self.save()
        if not state.has_evaluated:
            self._evaluate()
        if first:
            self._record()
        return state.metrics

    def batches(self, count: int) -> Iterator[PairBatch]:
        """The next `count` batches, this process's share of each, over as many epochs as that takes."""
        state, parts, size = self.state, self.parts, self.config.optim.batch_size
        left = count
        while left > 0:
            if state.offset == 0 and parts.sampler.wants_refresh(state.epoch):
                parts.sampler.neighbours = self._most_similar()
                self._clock = now_s()
            batches = parts.sampler.batches(state.epoch)
            if not batches:
                raise TrainingError(
                    f"Epoch {state.epoch} has no whole batch of {size} different places: lower optim.batch-size."
                )
            todo = batches[state.offset : state.offset + left]
            rows = share_rows(size, self.world)
            parts.plan.set(state.epoch, [batch[rows] for batch in todo])
            for batch in parts.loader:
                if isinstance(batch, DphrError):  # of a worker, whole
                    raise batch
                state.offset += 1
                left -= 1
                yield batch
            if state.offset == len(batches):
                state.epoch, state.offset = state.epoch + 1, 0

    def train_step(self, batch: PairBatch) -> dict[str, float]:
        """One optimisation step on one batch; returns its terms by name.

        Raises:
            TrainingError: the loss is not finite; no weight has changed.
        """
        optim, parts, state = self.config.optim, self.parts, self.state
        torch.manual_seed(_step_seed(self.config.seed, state.step, self.world.rank))
        rate = learning_rate_at(state.step, parts.steps, optim.learning_rate, optim.warmup)
        for group in parts.optimizer.param_groups:
            group["lr"] = rate
        terms = self.compute.backward(batch)
        if not math.isfinite(terms["loss"]):
            raise TrainingError(f"The loss is {terms['loss']} at step {state.step} of {parts.steps}. {self._way_out()}")
        parts.scaler.unscale_(parts.optimizer)
        torch.nn.utils.clip_grad_value_(parts.parameters, optim.clip_value)
        parts.scaler.step(parts.optimizer)
        parts.scaler.update()
        state.step += 1
        return terms | {"learning_rate": rate}

    def save(self) -> None:
        """Write the checkpoint of the current step; the first process does, the others need none.

        Raises:
            TrainingError: a weight is not finite; the last good checkpoint stays.
            StorageError: no space or no permission; likewise.
        """
        if self.world.rank != 0:
            return
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.parts.parameters):
            raise TrainingError(
                f"Weights are not finite after step {self.state.step} of {self.parts.steps}. {self._way_out()}"
            )
        checkpoint = take_checkpoint(self.state, self.parts, self.config, self.world)
        write_checkpoint(self.config.out / LAST_CHECKPOINT, checkpoint)

    def _most_similar(self) -> NDArray[np.int64]:
        """Lists for the sampler from the embedding as it is now: each place by its first pair."""
        found: NDArray[np.int64] | None = None
        config, split = self.config, self.parts.split
        places = {pair.place_id: pair for pair in reversed(split.pairs)}
        count = min(config.sampler.range, len(places) - 1)
        if self.world.rank == 0:
            pairs = [places[place] for place in sorted(places)]
            embed = network_embedder(self.parts.encoder, config.data, config.device)
            queries = embed([pair.query for pair in pairs], split.query_view, "embed train queries")
            references = embed([pair.reference for pair in pairs], "satellite", "embed train references")
            found = most_similar(queries, references, count)
        return broadcast_from_first(found, (len(places), count), self.world, config.device)

    def _way_out(self) -> str:
        path, rate = self.config.out / LAST_CHECKPOINT, self.config.optim.learning_rate
        kept = f"The last good checkpoint is kept: {path}." if path.exists() else "No checkpoint has been written yet."
        return f"{kept} Lower optim.learning-rate ({rate}) or use fp32."

    def _evaluation_is_due(self) -> bool:
        every, state = self.config.evaluate_every, self.state
        return every > 0 and state.step > 0 and state.step % every == 0 and not state.has_evaluated

    def _evaluate(self) -> None:
        """Evaluate on the test split and keep the figures, in the checkpoint too."""
        if self.world.rank != 0:
            return
        data, state = self.config.data, self.state
        if not self.parts.directions:
            _logger.warning("%s has no test split: nothing is evaluated.", data.root)
            return
        embed = network_embedder(self.parts.encoder, data, self.config.device)
        ranked = evaluate(embed, self.parts.directions)
        state.metrics.setdefault("evaluations", {})[str(state.step)] = directions_to_json(ranked)
        self.save()
        report = ranked[0].reports["full"]
        _logger.info(
            f"step {state.step}: {ranked[0].name} R@1 {100 * report.recall_at[1]:.2f} "
            f"AP {100 * report.ap:.2f} ({report.n_queries} in {report.n_gallery})"
        )

    def _record(self) -> None:
        config = self.config
        steps = read_metrics(config.out / "metrics.jsonl")
        draw_curves(steps, config.out / "curves.png")
        write_record(
            config.out,
            RunRecord(
                config=config,
                steps=self.state.step,
                git=git_revision(Path(__file__).parent),
                data=self.parts.data,
                environment=describe_environment(config.device, self.world.size),
                seconds=sum(line.get("seconds", 0.0) for line in steps),
                metrics=self.state.metrics,
            ),
        )

    def _watch_collapse(self, terms: dict[str, float]) -> None:
        state, optim = self.state, self.config.optim
        if "infonce" not in terms or state.metrics.get("collapsed") or not state.watch.update(terms["infonce"]):
            return
        state.metrics["collapsed"] = state.step
        if self.world.rank == 0:
            _logger.warning(
                f"Collapse: InfoNCE has stayed at {state.watch.mean:.2f}, near ln(batch) = "
                f"{math.log(optim.batch_size):.2f}, for {state.watch.WINDOW} steps up to step {state.step}: the "
                f"embeddings tell nothing apart. Lower optim.learning-rate ({optim.learning_rate}) or raise the batch "
                "size."
            )


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of one step's random choices in the network (drop path, dropout), different in every process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
