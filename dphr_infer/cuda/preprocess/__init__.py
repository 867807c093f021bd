"""Frames to model input by our own kernels, equal to Pillow."""
