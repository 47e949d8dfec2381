"""How many members are computed, written and taken up again as one."""

from __future__ import annotations

from forecast.core.memory import available

MOST = 32
"""more members at once make nothing faster, and a lost item dearer"""
SHARE = 0.25
"""of the memory that is free"""
COPIES = 10
"""states of each member in memory at once: window, step, what waits for the disk, copies between layouts"""
ITEMS = 4
"""work items for each process, so that shares come out even"""


def fitting(
    members: int, starts: int, state: int, block: int = 1, processes: int = 1, memory: int | None = None
) -> int:
    """A member batch: whole blocks, as many members as fit `memory` bytes (a share of what is free if absent).

    It has no influence on the fields: only on memory, on the number of files, and on how evenly work is shared.

    Args:
        state: bytes of one member's fields at one step. block: members that cost as much as one.
    """
    fits = int((SHARE * available() if memory is None else memory) // (state * COPIES))
    even = members * starts // (ITEMS * processes) if processes > 1 else members
    most = max(block, min(MOST, fits, max(even, 1)) // block * block)
    batches = -(-members // most)
    return min(members, -(-members // (batches * block)) * block)
