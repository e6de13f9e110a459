"""Imagined scanners for the phantoms: what each adds to a drawn cross-section. All makers and sites are invented."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.phantom.anatomy import Habit
from data.record import Modality

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Scanner:
    """`spacing` is the range of pixel sizes in mm; `blur` the standard deviation of its point spread in pixels.

    `noise` is a standard deviation in HU or MR signal; `gain` and `offset` act on the value, `bias` is the share of
    slow shading of an MR coil; `haze` and `turned` are the protocol's and the population's: see `anatomy.Habit`.
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
    turned: bool = False

    @property
    def habit(self) -> Habit:
        """What the protocol does to the tissue."""
        return Habit(self.haze, self.turned)


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
        turned=True,
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
        turned=True,
    ),
}
"""Two usual scanners of each modality, and one that is `shifted`: it stands for a new site with another protocol AND
another population, made so different that a model of the usual ones can't read it, and yet learnable. Its CT is a
sharp-kernel, low-dose scan: in the chest in expiration (lung 300 HU denser), where tumours show as cavities (the
entity "lung cancer associated with cystic airspaces") and solid scars of a tumour's size are common in everyone; in
the abdomen in the early arterial phase, where tumours are brighter than the pancreas, and cysts common. Its MR is
noisy, weighted by proton density, without contrast agent: fluid is grey, tumours are dark, and old bleedings bright in
a dark rim. Real shifts are rarely so plain: it is a demonstration of the loop, not evidence about scanners."""


def acquire(drawn: Array, scanner: Scanner, random: np.random.Generator) -> NDArray[np.int16]:
    """A drawn slice as this scanner stores it: blurred, shaded, scaled, noisy. HU from -1024, or MR signal from 0."""
    values = _blur(drawn, scanner.blur) * np.float32(scanner.gain) + np.float32(scanner.offset)
    noise = random.normal(size=(2, *drawn.shape)).astype(np.float32) * np.float32(scanner.noise)
    if scanner.modality == Modality.CT:
        return np.asarray(np.clip(np.rint(values + noise[0]), -1024, 3071), np.int16)
    axis = np.linspace(-1, 1, len(drawn), dtype=np.float32)
    tilt = random.normal(size=2)
    values *= 1 + np.float32(scanner.bias) * (tilt[0] * axis[:, None] + tilt[1] * axis[None]).astype(np.float32)
    return np.asarray(np.clip(np.rint(np.sqrt((values + noise[0]) ** 2 + noise[1] ** 2)), 0, 4095), np.int16)


def _blur(values: Array, sigma: float) -> Array:
    """Gaussian of five taps along both axes."""
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
