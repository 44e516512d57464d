"""Proximal policy optimisation: advantages, losses, optimisers, schedules and curricula."""
