"""Images in memory (`sources`) or as they are needed (`stream`), preparing them, and their views on the device."""
