"""Drawing of phantoms: shapes with soft edges, wavy outlines and smooth random fields; lengths in mm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Random = np.random.Generator
SIZE = 128


class Canvas:
    """A picture to draw on. Shapes have a soft edge of one pixel, so that they are not jagged."""

    def __init__(self, pixel: float, fill: float) -> None:
        axis = ((np.arange(SIZE) - (SIZE - 1) / 2) * pixel).astype(np.float32)
        self.pixel, self.axis = pixel, axis
        self.values = np.full((SIZE, SIZE), fill, np.float32)

    def ellipse(
        self,
        x: float,
        y: float,
        a: float,
        b: float,
        value: float | Array,
        angle: float = 0.0,
        wave: tuple[Array, Array] | None = None,
        ring: float = 0.0,
    ) -> None:
        """Draw an ellipse: half axes `a`, `b`, rotated by `angle`.

        `wave` (cosines, sines) bends it; `ring` is its width.
        """
        reach = max(a, b) * (1.6 if wave else 1.05) + 2 * self.pixel
        rows = slice(*np.searchsorted(self.axis, (y - reach, y + reach)))
        columns = slice(*np.searchsorted(self.axis, (x - reach, x + reach)))
        dy, dx = self.axis[rows, None] - y, self.axis[None, columns] - x
        if dy.size == 0 or dx.size == 0:
            return
        u = (dx * np.cos(angle) + dy * np.sin(angle)) / a
        v = (dy * np.cos(angle) - dx * np.sin(angle)) / b
        radius = np.sqrt(u * u + v * v)
        depth = (1 - radius if wave is None else _outline(u, v, wave) - radius) * (min(a, b) / self.pixel)
        mask = np.clip(depth + 0.5, 0, 1)
        if ring:
            mask *= np.clip(ring / self.pixel - depth + 0.5, 0, 1)
        patch = self.values[rows, columns]
        patch += mask * ((value[rows, columns] if isinstance(value, np.ndarray) else value) - patch)


def _outline(u: Array, v: Array, wave: tuple[Array, Array]) -> Array:
    """1 plus a Fourier series of the direction of (u, v), by the recurrence of cos nt and sin nt."""
    length = np.sqrt(u * u + v * v) + np.float32(1e-6)
    c1, s1 = u / length, v / length
    c, s, outline = c1, s1, np.ones_like(u)
    for cosine, sine in zip(*wave, strict=True):
        outline += cosine * c + sine * s
        c, s = c * c1 - s * s1, s * c1 + c * s1
    return outline


def wave(random: Random, strength: float, turns: int = 5) -> tuple[Array, Array]:
    """Cosines and sines of an outline that bends by about `strength` of the radius, with `turns` frequencies."""
    size = strength / np.sqrt(np.arange(1, turns + 1)) * random.normal(size=(2, turns))
    return size[0].astype(np.float32), size[1].astype(np.float32)


def cloud(random: Random, strength: float) -> Array:
    """A smooth random field over the picture, with a standard deviation of about `strength`.

    It uses double precision: on other processors, libraries round single-precision cosines and products differently,
    and the last bit would change pixels.
    """
    waves = np.cos(np.linspace(0, np.pi, SIZE)[:, None] * np.arange(1, 5))
    weights = random.normal(size=(4, 4)) * (strength / 2)
    return np.asarray(waves @ weights @ waves.T, np.float32)
