"""The imitation task: context, term kernels and the TorchRL environment."""
