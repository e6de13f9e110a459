"""The range of a number among the settings, as a part of its type: `Annotated[float, Range(above=0, below=1)]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """The numbers that a setting accepts, and their unit.

    A value is greater than `above`, at least `least`, at most `most` and less than `below`; None sets no limit.
    """

    above: float | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None
    unit: str = ""

    def __str__(self) -> str:
        """The limits in words, for example "above 0 and at most 1"; empty without limits."""
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        words = ("above", self.above), ("at least", self.least), ("at most", self.most), ("below", self.below)
        return " and ".join(f"{word} {limit}" for word, limit in words if limit is not None)

    def contains(self, value: float) -> bool:
        """Whether a number is within the limits; NaN is not, if there are any."""
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def check(self, value: float) -> float:
        """The value itself. ValueError with the limits in words if it is outside of them."""
        if not self.contains(value):
            raise ValueError(str(self))
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """How pydantic checks the number. Only pydantic calls this, so the settings need no pydantic to be imported."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


SEED = Range(least=0, most=2**32 - 1)  # what NumPy and Keras accept
SHARE = Range(least=0, most=1, unit="share")
PROBABILITY = Range(above=0, below=1, unit="probability")
PATIENTS = Range(least=1, unit="patients")
DRAWS = Range(least=10, unit="draws")  # training/statistics/bootstrap.py needs that many for a p-value
