"""Which cells of a mask grid each position of a feature map covers."""

from __future__ import annotations


def cells(grid: int, positions: int) -> list[slice]:
    """The cells that each of `positions` along a side covers, those that it shares with its neighbour included."""
    return [slice(place * grid // positions, -(-(place + 1) * grid // positions)) for place in range(positions)]
