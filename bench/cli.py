"""Entry point."""

from bench.commands import main

__all__ = ["main"]
