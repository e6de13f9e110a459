"""What of a network learns in which epochs: all of it from the start, or the head first and the backbone later."""

from __future__ import annotations

from dataclasses import dataclass

from lineage.errors import Fault
from training.settings import ALL, HEAD, FitSettings


@dataclass(frozen=True)
class Stage:
    """The epochs from `begin` on, before `end` (from 0), in which `learns` (all, head, or the backbone from the layer
    of that name on, and the head) learns at `rate`."""

    begin: int
    end: int
    learns: str
    rate: float


def stages(settings: FitSettings) -> tuple[Stage, ...]:
    """The stages of a fit, in their order (fine-tuning in two: Kumar et al., ICLR 2022, "linear probing, then").

    Raises Fault where something is to be frozen that has learned nothing yet, or a number makes no sense.
    """
    head, start = settings.head_epochs, settings.unfreeze_from
    if settings.weights == "none" and (head or start != ALL):
        raise Fault(
            "fit.head_epochs and fit.unfreeze_from keep pretrained layers, but fit.weights is none: "
            "set fit.weights, or set them to 0 and all"
        )
    if not 0 <= head <= settings.epochs or settings.unfrozen_rate <= 0:
        raise Fault(
            f"fit.head_epochs {head} must lie between 0 and fit.epochs {settings.epochs}, and "
            f"fit.unfrozen_rate {settings.unfrozen_rate} above 0"
        )
    if not head:
        return (Stage(0, settings.epochs, start, settings.learning_rate),)
    slow = settings.learning_rate * settings.unfrozen_rate
    both = Stage(0, head, HEAD, settings.learning_rate), Stage(head, settings.epochs, start, slow)
    return both if head < settings.epochs else both[:1]
