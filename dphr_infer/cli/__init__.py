"""dphr-infer on the command line."""
