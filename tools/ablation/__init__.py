"""Curves and conclusions of ``tools/ablations.py``."""
