"""One NVIDIA GPU through PyCUDA: driver, graphs, and our kernels with the plans of their launches."""
