"""Fine-tuning stages: which layers train in which epochs."""

from __future__ import annotations

from dataclasses import dataclass

from lineage.errors import Fault
from training.settings import ALL, HEAD, FitSettings


@dataclass(frozen=True)
class Stage:
    """The epochs `begin` to `end` (from 0, `end` excluded) with their trainable layers and learning rate.

    `trainable` is all, head, or the name of the first trainable layer of the backbone (with the head).
    """

    begin: int
    end: int
    trainable: str
    learning_rate: float


def stages(settings: FitSettings) -> tuple[Stage, ...]:
    """The stages of a fit in order (linear probing, then fine-tuning: Kumar et al., ICLR 2022).

    Raises Fault if layers without pretrained weights would be frozen, or if a number is out of range.
    """
    head_epochs, unfreeze_from = settings.head_epochs, settings.unfreeze_from
    if settings.weights == "none" and (head_epochs or unfreeze_from != ALL):
        raise Fault(
            "fit.head_epochs and fit.unfreeze_from keep pretrained layers, but fit.weights is none: "
            "set fit.weights, or set them to 0 and all"
        )
    if not 0 <= head_epochs <= settings.epochs or settings.unfrozen_rate <= 0:
        raise Fault(
            f"fit.head_epochs {head_epochs} must be between 0 and fit.epochs {settings.epochs}, and "
            f"fit.unfrozen_rate {settings.unfrozen_rate} above 0"
        )
    if not head_epochs:
        return (Stage(0, settings.epochs, unfreeze_from, settings.learning_rate),)
    unfrozen_rate = settings.learning_rate * settings.unfrozen_rate
    two_stages = (
        Stage(0, head_epochs, HEAD, settings.learning_rate),
        Stage(head_epochs, settings.epochs, unfreeze_from, unfrozen_rate),
    )
    return two_stages if head_epochs < settings.epochs else two_stages[:1]
