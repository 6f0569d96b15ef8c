"""Networks in other formats: PyTorch's weights in, and students out."""
