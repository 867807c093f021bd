"""Exact top-k search by our own kernels."""
