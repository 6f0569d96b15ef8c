"""Datasets: prepared once, then read whole (`sources`) or image by image (`stream`)."""
