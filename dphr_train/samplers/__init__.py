"""How pairs are put together to batches."""
