"""Musculoskeletal bodies as data: MJCF edited through ``MjSpec`` and one record per embodiment."""
