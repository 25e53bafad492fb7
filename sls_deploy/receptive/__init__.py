"""What an output pixel of an ONNX graph hangs on: how far tiles must overlap."""
