"""Arithmetic on attention tensors; NumPy and Pillow only."""
