"""The layers of which networks and heads are built."""
