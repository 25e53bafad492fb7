"""Runners: one interface for PyTorch, ONNX Runtime and TensorRT."""
