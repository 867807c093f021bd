"""The network as ONNX: written with folded batch norms in one operator set, and what its graph costs to run."""
