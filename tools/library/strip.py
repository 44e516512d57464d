"""Arm motions made for a picture alone (``tools/make_strip.py``): a throw and a pour; no policy trains on them."""

from __future__ import annotations

from tools.library.arms import ArmMotion, Key

# Overarm: the upper arm to the side, turned back, the elbow bent; then forward, the elbow nearly straight. The turn about
# the vertical is small and the throw takes half a second, because the published arms carry 1 kg m^2 too much about it.
COCKED = {"elv_angle": 30.0, "shoulder_elv": 85.0, "shoulder_rot": -75.0, "elbow_flex": 115.0, "flexion": -20.0}
THROWN = {"elv_angle": 66.0, "shoulder_elv": 85.0, "shoulder_rot": -15.0, "elbow_flex": 12.0, "pro_sup": 40.0,
          "flexion": 15.0}
FOLLOWED = {"elv_angle": 90.0, "shoulder_elv": 45.0, "shoulder_rot": 25.0, "elbow_flex": 30.0, "pro_sup": 45.0,
            "flexion": 10.0}
# A jug before the chest, thumb up: the forearm alone turns, and the wrist stays where it is. Pronation ends before the 67.7
# degrees at which the supinator of the published arms jumps.
JUG = {"elv_angle": 45.0, "shoulder_elv": 55.0, "shoulder_rot": 25.0, "elbow_flex": 80.0, "pro_sup": -10.0}
POURED = {**JUG, "pro_sup": 62.0}
BEFORE_CHEST = (-0.02, 0.38, -0.17)

STRIP_MOTIONS = {
    "throw_right": ArmMotion(3.9, (Key(0.0, {}), Key(0.2, {}), Key(1.1, COCKED), Key(1.25, COCKED), Key(1.75, THROWN),
                                   Key(2.45, FOLLOWED), Key(3.7, {})), arms="right"),
    "pour_right": ArmMotion(5.2, (Key(0.0, {}), Key(0.2, {}), Key(1.3, JUG, BEFORE_CHEST), Key(1.5, JUG, BEFORE_CHEST),
                                  Key(2.4, POURED, BEFORE_CHEST), Key(3.1, POURED, BEFORE_CHEST),
                                  Key(3.8, JUG, BEFORE_CHEST), Key(5.0, {})), arms="right"),
}
