"""Motions made by this project: the generators behind ``tools/make_library.py``."""
