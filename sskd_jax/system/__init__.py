"""The machine around a run: paths, terminal, signals, several processes, libraries kept quiet."""
