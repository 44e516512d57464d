"""Motion capture to clips of our bodies: readers, scaled targets, whole-clip inverse kinematics, ground contact."""
