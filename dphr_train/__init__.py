"""Train an embedding that puts a drone photo beside the satellite tile of the same place."""
