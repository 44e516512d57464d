"""Policies that begin as copies of the model-based controller."""
