"""What networks and heads are built of."""
