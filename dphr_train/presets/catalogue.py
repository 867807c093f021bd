"""Every preset by its name."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from pathlib import Path

from dphr_infer.errors import CheckpointError, ConfigError
from dphr_train.config import EMBEDDED_WEIGHTS, TrainConfig
from dphr_train.presets.dphr import DPHR
from dphr_train.presets.sample4geo import SAMPLE4GEO

PRESETS: dict[str, TrainConfig] = {
    name: dataclasses.replace(config, out=Path("runs") / name) for name, config in {**SAMPLE4GEO, **DPHR}.items()
}


def preset(name: str) -> TrainConfig:
    """The recipe of a name; its run goes to runs/<name>.

    Raises:
        ConfigError: there is none of this name; the message has near ones, or all.
    """
    try:
        return PRESETS[name]
    except KeyError:
        near = difflib.get_close_matches(name, PRESETS)
        mend = f"Near names: {', '.join(near)}." if near else f"Choose one of {', '.join(PRESETS)}."
        raise ConfigError(f"There is no preset {name!r}. {mend}") from None


def require_weights(config: TrainConfig, name: str) -> None:
    """Refuse to start a preset whose pretrained weights are not there, before the data is read or a model built.

    Args:
        config: the preset with the user's settings on top.
        name: the preset.

    Raises:
        CheckpointError: config.model.weights is a file that does not exist; the message has the command that fetches
            it on a machine with a connection.
    """
    model = config.model
    if model.weights in (EMBEDDED_WEIGHTS, "random") or Path(model.weights).is_file():
        return
    fetch = (
        f"curl --fail --location --create-dirs --output {shlex.quote(model.weights)} "
        f"https://huggingface.co/timm/{model.name}/resolve/main/model.safetensors"
    )
    raise CheckpointError(
        f"The preset {name} starts from timm's pretrained {model.name}, but {model.weights} does not exist and nothing "
        f"is downloaded: run `{fetch}` where there is a connection, or point --model.weights at a file that you have."
    )
