"""What a run leaves on the disk: checkpoints, logbook, results."""
