"""From a sparse network to ONNX files, with the proof of what is in them."""
