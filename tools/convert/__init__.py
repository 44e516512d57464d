"""Checkpoints of MuscleMimic: reading its Orbax directories, and its networks as ours."""
