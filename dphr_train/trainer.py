"""The training loop: one plain loop over pairs, with its state in checkpoints so that a run continues exactly."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dphr_infer.atomic import atomic_file
from dphr_infer.errors import ConfigError, TrainingError
from dphr_infer.terminal import Progress
from dphr_train.checkpoint import LAST_CHECKPOINT, Checkpoint, read_checkpoint, write_checkpoint
from dphr_train.config import TrainConfig
from dphr_train.config_json import config_to_json
from dphr_train.datasets.pairs import PairBatch, PairDataset, load_steps
from dphr_train.datasets.university1652 import University1652
from dphr_train.encoder import Encoder, load_exactly, load_pretrained, normalise
from dphr_train.evaluate import directions_to_json, evaluate, network_embedder
from dphr_train.objective import Objective
from dphr_train.run_log import RunLog, draw_curves, read_metrics
from dphr_train.run_record import RunRecord, describe_data, describe_environment, git_revision, write_record
from dphr_train.samplers.exclusive import ExclusiveSampler

_SCALER_START = 2.0**10
_MAY_DIFFER_ON_RESUME = ("out", "device", "checkpoint_every", "evaluate_every")


def learning_rate_at(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over the first `warmup` share of `steps`, then a cosine to zero; step counts from 0."""
    warm = math.ceil(warmup * steps)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class CollapseWatch:
    """Notices that InfoNCE stays at ln(batch), the value of embeddings that tell nothing apart.

    Known of lr 1e-3 with small batches: the encoder maps everything to one point and never recovers.
    """

    _WINDOW = 50
    _MARGIN = 0.03

    def __init__(self, batch_size: int) -> None:
        self._chance = math.log(batch_size)
        self._recent: deque[float] = deque(maxlen=self._WINDOW)

    def update(self, infonce: float) -> bool:
        """Take in one step; True when the mean of the last 50 lies within 3 % of ln(batch), or above."""
        self._recent.append(infonce)
        mean = sum(self._recent) / len(self._recent)
        return len(self._recent) == self._WINDOW and mean > (1 - self._MARGIN) * self._chance


class Trainer:
    """One run. Everything that the next step depends on is in the checkpoint.

    Raises:
        DatasetError, TrainingError, CheckpointError, ConfigError: the run cannot start as asked.
    """

    def __init__(self, config: TrainConfig, resume: bool = False) -> None:
        if config.optim.precision == "fp16" and not config.device.startswith("cuda"):
            raise ConfigError(
                f"optim.precision fp16 needs a CUDA device, the device is {config.device}: use bf16 or fp32."
            )
        require_device(config.device)
        self.config = config
        torch.manual_seed(config.seed)
        pairs = University1652(config.data.root).train_pairs()
        self.dataset = PairDataset(pairs, config.data, config.augment, config.seed)
        self.sampler = ExclusiveSampler([pair.place_id for pair in pairs], config.optim.batch_size, config.seed)
        self.steps = config.optim.steps or max(1, round(config.optim.epochs * self.sampler.steps_per_epoch))
        self.encoder = Encoder(config.model, config.data.image_px)
        load_pretrained(self.encoder, config.model.weights)
        self.encoder.to(config.device, memory_format=torch.channels_last).train()
        self.objective = Objective(config.loss).to(config.device)
        self.parameters = [*self.encoder.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.optim.learning_rate, weight_decay=config.optim.weight_decay
        )
        self.scaler = torch.amp.GradScaler(
            config.device.split(":")[0], _SCALER_START, enabled=config.optim.precision == "fp16"
        )
        self.step = 0
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
        config = self.config
        with atomic_file(config.out / "config.json") as temporary:
            temporary.write_text(json.dumps(config_to_json(config), indent=2) + "\n")
        loader = load_steps(self.dataset, self.sampler, self.step, self.steps, config.data.workers)
        watch = CollapseWatch(config.optim.batch_size)
        started = time.monotonic()
        with RunLog(config.out, self.step) as log, Progress("train", self.steps, "steps") as progress:
            progress.resume_at(self.step)
            for batch in loader:
                terms = self.train_step(batch)
                now = time.monotonic()
                terms |= {"images_per_s": 2 * len(batch[0]) / (now - started), "seconds": now - started}
                started = now
                log.write(self.step - 1, terms)
                progress.advance(text=f"loss {terms['loss']:.3f}, {terms['images_per_s']:.0f} images/s")
                if "infonce" in terms and not self.metrics.get("collapsed") and watch.update(terms["infonce"]):
                    self._say_collapse(terms["infonce"])
                if self.step % config.checkpoint_every == 0:
                    self.save()
                if config.evaluate_every and self.step % config.evaluate_every == 0 and self.step < self.steps:
                    self._evaluate()
        self._evaluate()
        self.save()
        steps = read_metrics(config.out / "metrics.jsonl")
        draw_curves(steps, config.out / "curves.png")
        write_record(
            config.out,
            RunRecord(
                config=config,
                steps=self.step,
                git=git_revision(Path(__file__).parent),
                data=describe_data(config.data.root),
                environment=describe_environment(config.device),
                seconds=sum(line["seconds"] for line in steps),
                metrics=self.metrics,
            ),
        )
        return self.metrics

    def train_step(self, batch: PairBatch) -> dict[str, float]:
        """One optimisation step on one batch; returns its terms by name.

        Both views pass the encoder in one batch, so batch normalisation sees the mixture that it meets in evaluation.
        """
        optim = self.config.optim
        rate = learning_rate_at(self.step, self.steps, optim.learning_rate, optim.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        drones, satellites, places = (tensor.to(self.config.device, non_blocking=True) for tensor in batch)
        queries, references = self._embed(torch.cat([drones, satellites])).chunk(2)
        total, terms = self.objective(queries, references, places)
        if not math.isfinite(terms["loss"]):
            raise TrainingError(
                f"The loss is {terms['loss']} at step {self.step} of {self.steps}. The last good checkpoint is kept in "
                f"{self.config.out}. Lower optim.learning-rate ({optim.learning_rate}) or use fp32."
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_value_(self.parameters, optim.clip_value)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return terms | {"learning_rate": rate}

    def _embed(self, images: Tensor) -> Tensor:
        pixels = normalise(images, self.encoder.mean, self.encoder.std)
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.optim.precision)
        with torch.autocast(images.device.type, dtype=kind, enabled=kind is not None):
            return self.encoder(pixels).float()

    def save(self) -> None:
        """Write the checkpoint of the current step."""
        write_checkpoint(
            self.config.out / LAST_CHECKPOINT,
            Checkpoint(
                config=self.config,
                step=self.step,
                encoder=self.encoder.state_dict(),
                objective=self.objective.state_dict(),
                optimizer=self.optimizer.state_dict()["state"],
                rng=torch.get_rng_state(),
                palw=self.objective.dphr.palw.state() if self.objective.dphr else {},
                scaler=self.scaler.state_dict(),
                metrics=self.metrics,
            ),
        )

    def _resume(self, checkpoint: Checkpoint) -> None:
        _check_same_run(self.config, checkpoint.config)
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
        if checkpoint.rng is not None:
            torch.set_rng_state(checkpoint.rng)
        self.step, self.metrics = checkpoint.step, checkpoint.metrics

    def _evaluate(self) -> None:
        if not University1652(self.config.data.root).has_test_split():
            print(f"{self.config.data.root} has no test split: nothing is evaluated.", file=sys.stderr)
            return
        embed = network_embedder(self.encoder, self.config.data.preprocess(), self.config.device)
        directions = evaluate(embed, self.config.data.root)
        self.metrics.setdefault("evaluations", {})[str(self.step)] = directions_to_json(directions)
        report = directions[0].reports["full"]
        print(
            f"step {self.step}: {directions[0].name} R@1 {100 * report.recall_at[1]:.2f} "
            f"AP {100 * report.ap:.2f} ({report.n_queries} in {report.n_gallery})",
            file=sys.stderr,
        )

    def _say_collapse(self, infonce: float) -> None:
        self.metrics["collapsed"] = self.step
        print(
            f"\nCollapse: InfoNCE has stayed at {infonce:.2f}, near ln(batch) = "
            f"{math.log(self.config.optim.batch_size):.2f}, for 50 steps up to step {self.step}: the embeddings tell "
            f"nothing apart. Lower optim.learning-rate ({self.config.optim.learning_rate}) or raise the batch size.",
            file=sys.stderr,
        )


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

    def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        return found

    new, old = flat(dataclasses.asdict(asked)), flat(dataclasses.asdict(stored))
    ignored = (*_MAY_DIFFER_ON_RESUME, "data.root", "data.workers", "data.cache")
    differ = [name for name in new if new[name] != old.get(name) and name not in ignored]
    if differ:
        name = differ[0]
        raise ConfigError(
            f"--resume needs the settings of the run that it continues: {name} is {new[name]}, the checkpoint has "
            f"{old.get(name)}. Give the same value, or start a new run in another --out."
        )
