"""Weights from PyTorch and to it, and the student as a file of its own."""
