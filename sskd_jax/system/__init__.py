"""The machine on which a run takes place: paths, terminal, signals, processes, quiet libraries."""
