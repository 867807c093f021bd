"""Where an encoder comes from: a checkpoint, a timm network, or weights that others published."""
