"""What a check reports."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("ERROR", "WARN", "INFO")


@dataclass(frozen=True)
class Finding:
    """One verdict on one element.

    ======== ============================================================ =====
    level    ``ERROR``, ``WARN`` or ``INFO``                              str
    check    name of the check, ``family.detail``                         str
    element  body, joint, muscle or pair                                  str
    value    the measured figure                                          float
    unit     its unit                                                     str
    text     the finding in a sentence                                    str
    ======== ============================================================ =====
    """

    level: str
    check: str
    element: str
    value: float
    unit: str
    text: str
