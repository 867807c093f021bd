"""What settings check themselves by; a failed check names the setting, its value, and what is expected."""

from __future__ import annotations

from typing import Any, get_args

from dphr_infer.errors import ConfigError


def require(holds: object, message: str) -> None:
    """A statement that has to hold."""
    if not holds:
        raise ConfigError(message)


def bounded(section: str, config: object, interval: str, *names: str) -> None:
    """Each of the fields lies in an interval such as "[0, 1)"."""
    low, high = map(float, interval[1:-1].split(","))
    for name in names:
        value = getattr(config, name)
        inside = (low < value if interval[0] == "(" else low <= value) and (
            value < high if interval[-1] == ")" else value <= high
        )
        require(inside, f"{section}{name.replace('_', '-')} is {value}; expected a number in {interval}.")


def chosen(section: str, config: object, **choices: Any) -> None:
    """Each of the fields is one of the texts of its Literal."""
    for name, choice in choices.items():
        value, known = getattr(config, name), get_args(choice)
        require(value in known, f"{section}{name} is {value!r}; choose one of {', '.join(known)}.")
