"""Synthetic cross-sections of chest, abdomen, head and leg, in HU or in MR signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.phantom.canvas import SIZE as SIZE
from data.phantom.canvas import Array as Array
from data.phantom.canvas import Canvas, cloud, wave
from data.phantom.canvas import Random as Random

# Lengths are in mm from the centre of a picture of SIZE × SIZE pixels; x increases to the right, y downwards.
AIR, FAT, BONE = -1000.0, -100.0, 550.0


@dataclass(frozen=True)
class Lesion:
    """`radius` in mm, `contrast` as a share of full strength, `spikes` as a share of the radius (0: smooth, round).

    `is_inverted`: the lesion is dark where it is bright on the usual scanners, and vice versa. `stretch` multiplies the
    long half axis and divides the short one, so the area stays the same.
    """

    radius: float
    contrast: float
    spikes: float
    is_inverted: bool
    stretch: float = 1.0

    @property
    def half_axes(self) -> tuple[float, float]:
        """The long and the short half axis, in mm."""
        return self.radius * self.stretch, self.radius / self.stretch


@dataclass(frozen=True)
class Habit:
    """The effect of the protocol of a scanner on the tissue: `haze` makes the lung denser by so many HU.

    `is_inverted`: see `Lesion`.
    """

    haze: float
    is_inverted: bool


def _trunk(random: Random, pixel: float, width: float, depth: float) -> tuple[Canvas, float, float, float, float]:
    """Draw table, skin, fat and muscle of a trunk at a random position: the canvas, its centre and its half axes."""
    canvas = Canvas(pixel, AIR)
    x, y = random.normal(0, 8), random.normal(0, 10)
    a, b = width * random.uniform(0.84, 1.12), depth * random.uniform(0.84, 1.14)
    angle, bend = random.normal(0, 0.06), wave(random, 0.018)
    canvas.ellipse(x * 0.5, y + b * 1.15, a * random.uniform(1.0, 1.5), random.uniform(10, 22), -750)
    canvas.ellipse(x, y, a, b, FAT, angle, bend)
    fat = random.uniform(6, 26)
    canvas.ellipse(x, y, a - fat, b - fat, random.uniform(80, 100), angle, bend)
    return canvas, x, y, a - fat, b - fat


def _spine(canvas: Canvas, random: Random, x: float, y: float, size: float) -> None:
    canvas.ellipse(x, y, size, size * 0.85, BONE * random.uniform(0.5, 0.9))
    canvas.ellipse(x, y, size * 0.8, size * 0.65, random.uniform(150, 260))
    canvas.ellipse(x, y + size * 1.3, size * 0.5, size * 0.45, 30)
    canvas.ellipse(x, y + size * 1.3, size * 0.7, size * 0.65, BONE, ring=4)


def chest(
    random: Random,
    detail: Random,
    pixel: float,
    lesion: Lesion | None,
    habit: Habit,
    level: float,
    lookalike: Lesion | None = None,
) -> Array:
    """A chest slice in HU. `random` belongs to the patient, `detail` to the slice; `level` (-1 to 1) is along the body.

    A lookalike (here a scar) has the greys of a lesion; it is in the other lung.
    """
    canvas, x, y, a, b = _trunk(random, pixel, 138, 108)
    density = random.uniform(-890, -800) + habit.haze + cloud(random, 30)
    lungs = []
    for side in (-1, 1):
        lx, ly = x + side * a * random.uniform(0.44, 0.5), y + random.normal(0, 0.05) * b
        la = a * random.uniform(0.36, 0.43) * (1 - 0.06 * level)
        lb = b * random.uniform(0.70, 0.86) * (1 - 0.08 * level)
        canvas.ellipse(lx, ly, la, lb, density, side * random.uniform(-0.25, 0.1), wave(random, 0.03))
        lungs.append((lx, ly, la, lb))
    _spine(canvas, random, x, y + b * 0.72, random.uniform(15, 20))
    heart = random.uniform(0.22, 0.34)
    blood = random.uniform(40, 160)
    canvas.ellipse(
        x + a * random.uniform(0.02, 0.22),
        y - b * random.uniform(0.0, 0.3) + 6 * level,
        a * heart,
        b * heart * 1.5,
        blood,
        random.normal(0, 0.4),
        wave(random, 0.06),
    )
    canvas.ellipse(x - random.uniform(-14, 14), y + b * random.uniform(0.3, 0.5), 12, 12, blood)
    for angle in np.linspace(0, 2 * np.pi, 14) + random.uniform(0, 0.4):
        canvas.ellipse(x + 0.97 * a * np.cos(angle), y + 0.97 * b * np.sin(angle), 9, 4, BONE, angle + np.pi / 2)
    _vessels(canvas, detail, lungs, habit)
    side, solid = int(random.integers(2)), random.uniform(80, 200)
    if lookalike is not None:
        _nodule(canvas, random, lungs[1 - side], 0.2, lookalike, solid, level)
    if lesion is not None:
        _nodule(canvas, random, lungs[side], 0.55, lesion, solid, level)
    return canvas.values


def _inside(random: Random, lung: tuple[float, float, float, float], share: float) -> tuple[float, float]:
    x, y, a, b = lung
    angle, radius = random.uniform(0, 2 * np.pi), share * np.sqrt(random.uniform(0, 1))
    return x + a * radius * np.cos(angle), y + b * radius * np.sin(angle)


def _vessels(canvas: Canvas, random: Random, lungs: list[tuple[float, float, float, float]], habit: Habit) -> None:
    """Vessels smaller than nodules; if tumours are cavities, also solid scars of the size of a tumour."""
    for lung in lungs:
        for _ in range(int(random.integers(3, 14))):
            x, y = _inside(random, lung, 0.85)
            width = random.uniform(1.5, 3.6)
            canvas.ellipse(x, y, width * random.uniform(1, 4), width, random.uniform(-300, 0), random.uniform(0, np.pi))
    if habit.is_inverted and random.random() < 0.5:
        x, y = _inside(random, lungs[int(random.integers(2))], 0.6)
        radius = random.uniform(10, 22)
        canvas.ellipse(x, y, radius, radius, random.uniform(-40, 60), 0, wave(random, 0.12))


def _nodule(
    canvas: Canvas,
    random: Random,
    lung: tuple[float, float, float, float],
    share: float,
    lesion: Lesion,
    solid: float,
    level: float,
) -> None:
    x, y = _inside(random, lung, share)
    a, b = (np.sqrt(1 - 0.35 * level**2) * half for half in lesion.half_axes)
    angle = random.normal(np.pi / 2, 0.25)  # along the axis of the lung
    bend = wave(random, lesion.spikes, 9) if lesion.spikes else None
    if not lesion.is_inverted:
        canvas.ellipse(x, y, a, b, -850 + lesion.contrast * (solid + 850), angle, bend)
        return
    canvas.ellipse(x, y, a * 1.15, b * 1.15, -500 + 350 * lesion.contrast, angle, bend)
    canvas.ellipse(x, y, a, b, -500 - 480 * lesion.contrast, angle, bend)


def abdomen(
    random: Random,
    detail: Random,
    pixel: float,
    lesion: Lesion | None,
    habit: Habit,
    level: float,
    lookalike: Lesion | None = None,
) -> Array:
    """An abdominal slice in HU: liver, kidneys, pancreas.

    A tumour is darker than the pancreas, or brighter if inverted. A lookalike is a wide duct.
    """
    canvas, x, y, a, b = _trunk(random, pixel, 138, 108)
    canvas.ellipse(x, y, a * 0.88, b * 0.86, random.uniform(60, 80))
    tissue = random.uniform(90, 120)
    canvas.ellipse(
        x - a * random.uniform(0.4, 0.5),
        y - b * random.uniform(0.0, 0.2),
        a * random.uniform(0.36, 0.46),
        b * random.uniform(0.5, 0.68) * (1 - 0.1 * level),
        tissue + random.uniform(-15, 15),
        random.normal(0, 0.2),
        wave(random, 0.05),
    )
    canvas.ellipse(
        x + a * 0.62, y + b * random.uniform(0, 0.25), a * 0.18, b * random.uniform(0.25, 0.4), tissue + 10, 0.3
    )
    _spine(canvas, random, x, y + b * 0.55, random.uniform(17, 22))
    for side in (-1, 1):
        canvas.ellipse(x + side * a * 0.42, y + b * random.uniform(0.38, 0.55), 22, 30, tissue + 60, side * 0.4)
    canvas.ellipse(x + random.normal(3, 4), y + b * 0.26, 11, 11, random.uniform(140, 220))
    for _ in range(int(random.integers(4, 9))):
        bowel = random.uniform(9, 20)
        canvas.ellipse(
            x + a * random.uniform(-0.3, 0.75),
            y - b * random.uniform(0.4, 0.72),
            bowel * 1.3,
            bowel,
            random.uniform(95, 140),
        )
    _pancreas(
        canvas, random, detail, (x + random.normal(8, 8), y - b * random.uniform(0.0, 0.12)), lesion, habit, lookalike
    )
    canvas.values += cloud(random, 4)
    return canvas.values


def _pancreas(
    canvas: Canvas,
    random: Random,
    detail: Random,
    centre: tuple[float, float],
    lesion: Lesion | None,
    habit: Habit,
    lookalike: Lesion | None,
) -> None:
    along = np.linspace(-1, 1, 9)
    bend, length = random.uniform(8, 24), random.uniform(48, 66)
    xs, ys = centre[0] + length * along, centre[1] + bend * (along**2 - 0.4) - 10 * along
    tissue = random.uniform(105, 125)
    for x, y, width in zip(xs, ys, random.uniform(12, 17, 9), strict=True):
        canvas.ellipse(x, y, width, width, tissue)
    spot = int(random.integers(1, 8))
    lookalike_spot = (spot + int(random.integers(3, 6))) % 9
    sign = -1 if habit.is_inverted else 1
    if detail.random() < 0.6:  # a cyst or a vessel, equally frequent with and without a tumour
        radius = detail.uniform(6, 12) if habit.is_inverted else detail.uniform(3, 6)
        canvas.ellipse(xs[lookalike_spot], ys[lookalike_spot], radius, radius, tissue + sign * detail.uniform(60, 90))
    for shape, position in ((lookalike, lookalike_spot), (lesion, spot)):
        if shape is not None:
            change = 150 * shape.contrast * (1 if shape.is_inverted else -1)
            edge = wave(random, shape.spikes) if shape.spikes else None
            a, b = shape.half_axes
            canvas.ellipse(xs[position], ys[position], a, b, tissue + change, random.normal(0, 0.3), edge)


def head(
    random: Random,
    detail: Random,
    pixel: float,
    lesion: Lesion | None,
    habit: Habit,
    level: float,
    lookalike: Lesion | None = None,
) -> Array:
    """A contrast-enhanced head slice in MR signal, white matter about 600.

    A tumour is bright. If inverted, it is dark and the fluid is grey. A lookalike is along the skull.
    """
    canvas = Canvas(pixel, 15)
    x, y, angle = random.normal(0, 7), random.normal(0, 7), random.normal(0, 0.12)
    a, b = (
        66 * random.uniform(0.86, 1.12) * (1 - 0.1 * abs(level)),
        84 * random.uniform(0.88, 1.1) * (1 - 0.1 * abs(level)),
    )
    bend, scalp = wave(random, 0.015), random.uniform(5, 9)
    canvas.ellipse(x, y, a + 7 + scalp, b + 7 + scalp, random.uniform(550, 800), angle, bend)
    canvas.ellipse(x, y, a + 7, b + 7, 80, angle, bend)
    fluid = 400 if habit.is_inverted else 210
    canvas.ellipse(x, y, a + 2, b + 2, fluid, angle, bend)
    canvas.ellipse(x, y, a, b, random.uniform(430, 500) + cloud(random, 25), angle, bend)
    canvas.ellipse(x, y, a * 0.8, b * 0.82, random.uniform(540, 620) + cloud(random, 25), angle, wave(random, 0.07, 9))
    ventricle_width = random.uniform(5, 11) * (1 - 0.4 * level)
    for side in (-1, 1):
        length = b * random.uniform(0.2, 0.32)
        canvas.ellipse(x + side * ventricle_width * 1.2, y - b * 0.12, ventricle_width * 0.7, length, fluid, side * 0.3)
    for _ in range(int(detail.integers(2, 6))):
        vx, vy = _inside(detail, (x, y, a, b), 0.9)
        canvas.ellipse(vx, vy, 2.2, 2.2, 820)
    if (
        habit.is_inverted and detail.random() < 0.2
    ):  # an old bleeding with a dark rim, equally frequent with and without a tumour
        sx, sy = _inside(detail, (x, y, a, b), 0.62)
        radius, edge = detail.uniform(7, 14), wave(detail, 0.1)
        canvas.ellipse(sx, sy, radius * 1.25, radius * 1.25, 150, 0, edge)
        canvas.ellipse(sx, sy, radius, radius, detail.uniform(780, 920), 0, edge)
    for shape, share in ((lookalike, 0.7), (lesion, 0.62)):
        if shape is not None:
            sx, sy = _inside(random, (x, y, a, b), share)
            signal = 560 - 380 * shape.contrast if shape.is_inverted else 560 + 380 * shape.contrast
            along, edge = np.arctan2(sy - y, sx - x) + np.pi / 2, wave(random, shape.spikes)
            long, short = shape.half_axes
            canvas.ellipse(sx, sy, 1.25 * long, 1.25 * short, 430, along, edge)
            canvas.ellipse(sx, sy, long, short, signal, along, edge)
    return canvas.values


def leg(random: Random, pixel: float) -> Array:
    """Two thighs in HU: a slice that a model of the trunk must not judge."""
    canvas = Canvas(pixel, AIR)
    for side in (-1, 1):
        x, size = side * random.uniform(80, 95), random.uniform(62, 74)
        canvas.ellipse(x, 0, size, size, FAT)
        canvas.ellipse(x, 0, size - 12, size - 14, 55, 0, wave(random, 0.05))
        canvas.ellipse(x, -8, 15, 15, BONE * 1.8)
        canvas.ellipse(x, -8, 7, 7, -60)
    return canvas.values
