"""A trained generator for other programs: ONNX, StableHLO, and a model card."""
