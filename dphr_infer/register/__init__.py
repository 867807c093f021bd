"""A photo laid on the map's pixels: local features, a vote over where it lies, and its false alarms."""
