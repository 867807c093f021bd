"""Frames in time become a fix, or no fix with its reason."""
