"""Tensors as bytes that prove themselves: TensorBlocks, hash trees, safetensors headers."""
