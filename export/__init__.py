"""Checkpoint -> bundle: the ONNX graphs, the gate that compares the shipped bytes with torch, and the folder."""
