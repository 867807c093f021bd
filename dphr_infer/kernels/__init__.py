"""CUDA C++ kernels, each with the plan of its launches beside it."""
