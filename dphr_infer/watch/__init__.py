"""Frames as they come from a folder, a film or a camera, located one after the other."""
