"""Motion imitation with muscle-driven human bodies, in PyTorch."""

__version__ = "0.1.0"
