"""Model bundles: export to ONNX, verification, compression."""
