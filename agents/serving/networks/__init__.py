"""Who computes an artifact's network: ONNX Runtime, NumPy, or C made for it."""
