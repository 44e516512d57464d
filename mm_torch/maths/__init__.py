"""Quaternions, frames and interpolation on tensors."""
