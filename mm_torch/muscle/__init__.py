"""The model-based side: static optimisation of activations."""
