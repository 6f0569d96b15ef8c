"""Networks in other formats: imports PyTorch's weights, and exports networks."""
