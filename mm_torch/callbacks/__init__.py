"""Lightning callbacks: checkpoints, metrics, sampling and curricula."""
