"""A trained policy for use elsewhere: modules, formats, bundle."""
