"""Checks of a musculoskeletal model against physics, its own mirror image and published anthropometry."""
