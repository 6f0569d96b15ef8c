"""The step on every device, evaluation, and one stage from its first step to its last."""
