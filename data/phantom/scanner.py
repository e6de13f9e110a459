"""Synthetic scanners of the phantoms: blur, gain, bias and noise. All manufacturers and sites are invented."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.core_types import Modality
from data.phantom.anatomy import Habit

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Scanner:
    """`spacing` is the range of pixel sizes in mm; `blur` is the standard deviation of the point spread in pixels.

    `noise` is a standard deviation in HU or MR signal. `gain` and `offset` act on the value. `bias` is the share of
    the slow shading of an MR coil. `haze` and `is_inverted` describe protocol and population: see `anatomy.Habit`.
    """

    site: str
    manufacturer: str
    model: str
    modality: Modality
    kernel: str
    spacing: tuple[float, float]
    thickness: float
    noise: float
    blur: float
    gain: float = 1.0
    offset: float = 0.0
    bias: float = 0.0
    haze: float = 0.0
    is_inverted: bool = False

    @property
    def habit(self) -> Habit:
        """The effect of the protocol on the tissue."""
        return Habit(self.haze, self.is_inverted)


# Two usual scanners of each modality, and a `shifted` one: a new site with another protocol and another population. It
# is so different that a model of the usual ones cannot read it, but it can be learned. Its CT has a sharp kernel and a
# low dose. Its chest is in expiration (lung 300 HU denser), tumours are cavities (the entity "lung cancer associated
# with cystic airspaces"), and solid scars of the size of a tumour are common in everyone. Its abdomen is in the early
# arterial phase: tumours are brighter than the pancreas, and cysts are common. Its MR is noisy and proton-density
# weighted, without contrast agent: fluid is grey, tumours are dark, and old bleedings are bright with a dark rim. Real
# shifts are rarely so large: the data demonstrates the loop and is no evidence about scanners.
SCANNERS = {
    "alder-ct": Scanner("Alder", "Kestrel Imaging", "K64", Modality.CT, "STANDARD", (2.2, 2.5), 3.0, 16, 0.60),
    "birch-ct": Scanner("Birch", "Meridian Systems", "Volume 128", Modality.CT, "B30f", (2.3, 2.6), 2.5, 22, 0.75),
    "shifted-ct": Scanner(
        "Cedar",
        "Tern Medical",
        "LowDose 16",
        Modality.CT,
        "SHARP",
        (2.2, 2.5),
        5.0,
        40,
        0.45,
        gain=1.04,
        offset=12,
        haze=300,
        is_inverted=True,
    ),
    "alder-mr": Scanner("Alder", "Kestrel Imaging", "M15", Modality.MR, "", (1.65, 1.8), 5.0, 18, 0.60, bias=0.05),
    "birch-mr": Scanner(
        "Birch",
        "Meridian Systems",
        "Tesla 3",
        Modality.MR,
        "",
        (1.6, 1.8),
        4.0,
        18,
        0.70,
        gain=1.2,
        bias=0.08,
    ),
    "shifted-mr": Scanner(
        "Cedar",
        "Tern Medical",
        "Open 05",
        Modality.MR,
        "",
        (1.65, 1.8),
        6.0,
        24,
        0.45,
        gain=0.6,
        bias=0.18,
        is_inverted=True,
    ),
}


def acquire(picture: Array, scanner: Scanner, random: np.random.Generator) -> NDArray[np.int16]:
    """The slice as the scanner stores it: blurred, shaded, scaled, noisy. HU from -1024, or MR signal from 0."""
    values = _blur(picture, scanner.blur) * np.float32(scanner.gain) + np.float32(scanner.offset)
    noise = random.normal(size=(2, *picture.shape)).astype(np.float32) * np.float32(scanner.noise)
    if scanner.modality == Modality.CT:
        return np.asarray(np.clip(np.rint(values + noise[0]), -1024, 3071), np.int16)
    axis = np.linspace(-1, 1, len(picture), dtype=np.float32)
    tilt = random.normal(size=2)
    values *= 1 + np.float32(scanner.bias) * (tilt[0] * axis[:, None] + tilt[1] * axis[None]).astype(np.float32)
    return np.asarray(np.clip(np.rint(np.sqrt((values + noise[0]) ** 2 + noise[1] ** 2)), 0, 4095), np.int16)


def _blur(values: Array, sigma: float) -> Array:
    """Blur with a Gaussian of five taps along both axes."""
    taps = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(values, [(2, 2) if axis == index else (0, 0) for index in (0, 1)], mode="edge")
        length = values.shape[axis]
        values = sum(
            (tap * padded.take(range(start, start + length), axis) for start, tap in enumerate(taps)),
            start=np.zeros_like(values),
        )
    return values
