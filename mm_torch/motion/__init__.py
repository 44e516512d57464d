"""Reference motion: clips on disk, the packed bank on the device, and how episodes are drawn from it."""
