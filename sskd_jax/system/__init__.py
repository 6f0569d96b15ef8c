"""Paths, libraries without their chatter, the screen, signals, several processes."""
