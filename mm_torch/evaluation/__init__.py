"""Judging a policy: clips tracked from their first frame, compared, perturbed, recorded."""
