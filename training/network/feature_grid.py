"""The cells of a mask grid that each position of a feature map covers."""

from __future__ import annotations


def cells_by_position(grid: int, positions: int) -> list[slice]:
    """The cells that each of `positions` along a side covers, including cells shared with its neighbour."""
    return [
        slice(position * grid // positions, -(-(position + 1) * grid // positions)) for position in range(positions)
    ]
