"""The networks, their layers, and the export to ONNX."""
