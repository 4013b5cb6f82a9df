"""Outputs that ran into a loop: the same text over and over until the limit."""

from __future__ import annotations

PROBE_CHARACTERS = 64
LEAST_REPEATS = 4
LEAST_CHARACTERS = 240
LONGEST_UNIT_CHARACTERS = 4_000
MOST_PLACES = 200


def is_looping(text: str) -> bool:
    """True if ``text`` ends in one piece of text repeated at least `LEAST_REPEATS` times, the last one maybe cut.

    The repeats must cover `LEAST_CHARACTERS`; pieces of up to `LONGEST_UNIT_CHARACTERS` are found. Linear, and quick
    where nothing repeats.
    """
    body = text.rstrip()
    probe = body[-PROBE_CHARACTERS:]
    if len(body) < LEAST_CHARACTERS or not probe.strip():
        return False
    earliest = max(0, len(body) - LONGEST_UNIT_CHARACTERS - PROBE_CHARACTERS)
    before = len(body) - len(probe)
    # A piece may hold its own end several times (rules, tables): the nearest place is then no whole piece.
    for _ in range(MOST_PLACES):
        before = body.rfind(probe, earliest, before + len(probe) - 1)
        if before < 0:
            return False
        unit = body[before + len(probe) :]
        needed = max(LEAST_REPEATS, -(-LEAST_CHARACTERS // len(unit)))
        if body.endswith(unit * needed):
            return True
    return False
