"""ONNX graphs -> TensorRT engines, each with a manifest of what is proven about it."""
