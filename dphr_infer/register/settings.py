"""How photos are registered; each default once. Loads nothing, so that a command line may read it first."""

from __future__ import annotations

from dataclasses import dataclass

from dphr_infer.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RegisterSettings:
    """How a photo is laid on the map, and when that is believed."""

    max_log10_nfa: float = -8.0
    """Believe a vote where chance gives at most 10 to this power as good ones."""
    max_radius_tiles: float = 0.2
    """Believe a position only if the radius of its circle of 95 % is at most this share of a tile's side."""
    candidates: int = 5
    """Places that are looked at."""
    side_tiles: float = 1.5
    """Side of the ground picture that is registered, in tiles."""
    max_side_px: int = 512
    """And its most pixels; the resolution follows."""
    ratio: float = 0.9
    """Keep a match whose distance is at most this share of the next one's."""
    rivals: float = 0.7
    """Refuse a vote of whose matches another place has at least this share."""
    cache_mb: int = 64
    """Memory for features of the map."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_log10_nfa", -300, 0),
            ("max_radius_tiles", 0.001, 1),
            ("candidates", 1, 1000),
            ("side_tiles", 0.25, 8),
            ("max_side_px", 64, 4096),
            ("ratio", 0.1, 1),
            ("rivals", 0.1, 1),
            ("cache_mb", 1, 1 << 20),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; expected a number in [{low}, {high}].")
