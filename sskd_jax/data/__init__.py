"""Images and labels in memory (`sources`), preparing them (`prepare`) and their views on the device (`views`)."""
