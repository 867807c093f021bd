"""One benchmark's folder layout, one file."""
