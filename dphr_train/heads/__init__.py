"""What turns a network's features into the embeddings of an image's parts. One head, one paper, one file.

A head is an nn.Module with n_parts, part_dim and one contract:

    forward(features) -> parts, (B, n_parts, part_dim), not normalised; float32, but for layers that autocast takes over

The features are the map (B, C, h, w), or the network's own pooled output (B, C). The parts of an image, one after the
other, are its embedding; each part alone is what an identity loss classifies.
"""
