"""Training on a folder of your own, in University-1652's layout: train/{satellite,drone}/<number>/*.jpg.

python examples/train_own_data.py my_data runs/mine 200
"""

import sys
from pathlib import Path

from dphr_infer.errors import DphrError
from dphr_train.config import DataConfig, DphrConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from dphr_train.datasets.open import open_dataset
from dphr_train.trainer import Trainer


def main(data: str, out: str, steps: str, batch_size: str = "48", weights: str = "embedded") -> None:
    """Look at the folder, train, and print the last figures; then: dphr-export bundle OUT --data DATA --out BUNDLE."""
    report = open_dataset("university1652", Path(data)).check()
    if report.missing or report.unreadable:
        sys.exit(f"missing: {report.missing}; unreadable: {report.unreadable}")
    config = TrainConfig(
        out=Path(out),
        data=DataConfig(root=Path(data), image_px=128),
        model=ModelConfig(weights=weights),  # "embedded" are ImageNet's
        # PALW follows the progress of training: its window and smoothing suit the length of the run.
        loss=LossConfig(dphr=DphrConfig(window=max(1, int(steps) // 10), beta=0.95)),
        optim=OptimConfig(steps=int(steps), batch_size=int(batch_size)),
    )
    metrics = Trainer(config).run()
    print(f"{steps} steps done, checkpoint in {out}: {metrics}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except DphrError as error:
        sys.exit(str(error))
