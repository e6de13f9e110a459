"""Generated pictures of no kind, and altered copies of slices: the two sides of the test of the kind of picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]
PATTERN_SHARES = (0.2, 0.4, 0.15, 0.1, 0.15)  # of the patterns, in the order of `_PATTERNS`
NOISE_SCALES = (0.0, 0.7, 1.5, 3.0, 6.0, 12.0, 24.0)  # pixels
MIXED, ENLARGED, BLURRED = 0.3, 0.4, 0.7  # shares of the pictures
SMALLEST_CROP = 32  # pixels of a crop that is enlarged to the whole picture


def other_pictures(count: int, size: int, seed: int) -> NDArray[np.float32]:
    """Pictures (count, size, size, 1) in [0, 1] of noise, ellipses, boxes, lines of text, and waves.

    They stand for every picture that is not of a task. None is made from a scan or from another task, so that the test
    of a task depends on that task's slices alone.
    """
    random = np.random.default_rng(seed)
    return np.stack([_other_picture(random, size) for _ in range(count)]).astype(np.float32)[..., np.newaxis]


def altered_copies(slices: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """A copy of each prepared slice (n, size, size, 1), changed as between patients and scanners.

    Zoom and gain of up to 20 and 15 %, a small turn and shift, mirrored or not, another gamma, more blur or noise.
    """
    random = np.random.default_rng(seed)
    copies = [_altered(slice_[:, :, 0].astype(np.float64), random) for slice_ in slices]
    return np.stack(copies).astype(np.float32)[..., np.newaxis]


def _other_picture(random: np.random.Generator, size: int) -> Picture:
    from scipy.ndimage import gaussian_filter

    def pattern() -> Picture:
        return _PATTERNS[int(random.choice(len(_PATTERNS), p=PATTERN_SHARES))](random, size)

    picture = pattern()
    if random.random() < MIXED:
        picture = 0.6 * picture + 0.4 * pattern()
    if random.random() < ENLARGED:
        picture = _enlarge_crop(picture, random)
    if random.random() < BLURRED:
        picture = gaussian_filter(picture, random.choice([0.0, 0.5, 1.0, 2.0]))
    picture = picture + random.choice([0.0, 0.01, 0.03, 0.08]) * random.normal(size=picture.shape)
    return np.asarray(np.clip(picture, 0, 1) ** random.choice([0.5, 1.0, 1.0, 2.0]))


def _enlarge_crop(picture: Picture, random: np.random.Generator) -> Picture:
    from scipy.ndimage import gaussian_filter

    size = len(picture)
    side = int(random.integers(min(SMALLEST_CROP, size // 2), size))
    top, left = random.integers(0, size - side + 1, 2)
    positions = np.arange(size) * side // size
    crop = picture[top : top + side, left : left + side][positions][:, positions]
    return np.asarray(gaussian_filter(crop, size / side / 2))


def _noise(random: np.random.Generator, size: int) -> Picture:
    from scipy.ndimage import gaussian_filter

    field = random.normal(size=(size, size))
    scale = random.choice(NOISE_SCALES)
    return _to_unit(gaussian_filter(field, scale) if scale else field)


def _ellipses(random: np.random.Generator, size: int) -> Picture:
    """A large ellipse with up to twelve smaller ones, plain or with texture, like an invented body."""
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    picture = np.full((size, size), random.choice([0.0, 0.0, random.random()]))
    for number in range(int(random.integers(2, 14))):
        is_body = number == 0
        centre = random.normal(0, 0.1 if is_body else 0.35, 2)
        axes = random.uniform(0.4, 1.1, 2) if is_body else random.uniform(0.05, 0.5, 2)
        angle = random.uniform(0, np.pi)
        across = (columns - centre[0]) * np.cos(angle) + (rows - centre[1]) * np.sin(angle)
        along = -(columns - centre[0]) * np.sin(angle) + (rows - centre[1]) * np.cos(angle)
        inside = (across / axes[0]) ** 2 + (along / axes[1]) ** 2 < 1
        picture[inside] = random.random() if random.random() < 0.7 else 0.0
        if random.random() < 0.5:
            picture[inside] += (random.uniform(0, 0.3) * (_noise(random, size) - 0.5))[inside]
    return picture


def _boxes(random: np.random.Generator, size: int) -> Picture:
    """Overlapping boxes, like a page of a program."""
    picture = np.full((size, size), random.choice([0.0, 1.0, random.random()]))
    for _ in range(int(random.integers(3, 60))):
        top, left = random.integers(0, size, 2)
        height, width = np.maximum(1, (size * random.random(2) ** 3).astype(int))
        picture[top : top + height, left : left + width] = random.random()
    return picture


def _text(random: np.random.Generator, size: int) -> Picture:
    """Lines of dark marks on white, or of white marks on black, like a document."""
    picture = np.full((size, size), float(random.random() < 0.7))
    ink, step = 1 - picture[0, 0], int(random.integers(3, 9))
    for top in range(int(random.integers(2, 12)), size - 3, step):
        left = 4
        while left < size - 6:
            width = int(random.integers(1, 8))
            if random.random() < 0.8:
                picture[top : top + max(1, step // 2), left : left + width] = ink if random.random() < 0.8 else 0.5
            left += width + int(random.integers(1, 3))
    return picture


def _waves(random: np.random.Generator, size: int) -> Picture:
    rows, columns = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    picture = np.zeros((size, size))
    for _ in range(int(random.integers(1, 6))):
        phase = random.normal(0, 8) * columns + random.normal(0, 8) * rows
        picture += random.random() * np.sin(2 * np.pi * phase + random.random() * 6)
    return _to_unit(picture)


_PATTERNS = (_noise, _ellipses, _boxes, _text, _waves)


def _to_unit(picture: Picture) -> Picture:
    low, high = picture.min(), picture.max()
    return np.asarray((picture - low) / (high - low + 1e-9))


def _altered(slice_: Picture, random: np.random.Generator) -> Picture:
    from scipy.ndimage import affine_transform, gaussian_filter

    zoom, angle = random.uniform(0.8, 1.2), random.normal(0, 0.06)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    centre = np.full(2, (len(slice_) - 1) / 2)
    shift = random.normal(0, len(slice_) / 25, 2)
    altered = affine_transform(slice_, turn, centre - turn @ centre + shift, order=1, mode="nearest")
    if random.random() < 0.5:
        altered = altered[:, ::-1]
    low, high = random.uniform(-0.08, 0.08), random.uniform(0.85, 1.15)
    altered = low + (high - low) * np.clip(altered, 0, 1) ** np.exp(random.normal(0, 0.2))
    choice = random.random()
    if choice < 0.35:
        altered = gaussian_filter(altered, random.uniform(0.3, 1.0))
    elif choice < 0.7:
        altered = altered + random.uniform(0, 0.04) * random.normal(size=altered.shape)
    return np.asarray(np.clip(altered, 0, 1))
