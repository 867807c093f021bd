"""What runs a model: ONNX Runtime, TensorRT and TensorRT-RTX behind one protocol."""
