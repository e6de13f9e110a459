"""Lesions that go over: what a mask outlines is laid into a slice without one, or taken out, and the label with it.

So a network meets a lesion in places where no patient of the training side has one, and the place without its lesion.
Copy and paste by outlines is of Ghiasi et al. (CVPR 2021), for lesions of the brain of Zhang et al. (MICCAI 2021).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.dataset.shards import Units
from data.scan import preprocess
from lineage.errors import Fault

ANGLE = 60.0  # degrees to either side by which a lesion is turned
SMALLER, LARGER = 0.7, 1.4  # times its size
NEAR, RIM = 0.25, 0.06  # of a side of the picture: how far from its place it may lie, how deep in the body it must
GAIN = 1.4  # at most so much lighter or darker, until its surroundings are alike
Picture = NDArray[np.float32]


class Lesions:
    """The training units as an epoch shows them: a `share` of those whose mask is empty have got a lesion of another
    unit, and as many of those with one the tissue of an empty one in its place. Each then has the label of what it
    shows. A unit of an `unclear` class (Task.unclear_index) whose mask is empty takes no part: nobody knows what it
    shows."""

    def __init__(self, units: Units, share: float, seed: int, unclear: Sequence[int] = ()) -> None:
        if not 0 <= share <= 1:
            raise Fault(f"fit.augment.paste is {share}: use a share between 0 and 1")
        self.units, self.share, self.seed = units, share, seed
        self.outlines: dict[int, Picture] = {}  # by the places of units with a lesion
        self.bodies: dict[int, NDArray[np.bool_]] = {}  # by the places of units whose mask is empty
        if units.masks is None or not share:
            return
        for place in map(int, np.flatnonzero(units.masked)):
            picture, mask = units.pixels[place, ..., 0], units.masks[place, ..., 0]
            if mask.any():
                self.outlines[place] = outline(mask, picture.shape)
            elif units.labels[place] not in unclear:
                self.bodies[place] = inside(picture)

    def shown(self, epoch: int) -> Units:
        """The units of that epoch (from 0), by its number and the seed alone: pixels, labels and masks changed."""
        if not self.outlines or not self.bodies or self.units.masks is None:
            return self.units
        ill, free = (np.fromiter(found, np.int64) for found in (self.outlines, self.bodies))
        random = np.random.default_rng([self.seed, epoch, 1])
        seen, labels, masks = self.units.pixels.copy(), self.units.labels.copy(), self.units.masks.copy()
        for places, others in ((free, ill), (ill, free)):
            for place in places[random.random(len(places)) < self.share]:
                other = int(random.choice(others))
                seen[place, ..., 0], masks[place, ..., 0] = self._changed(int(place), other, random)
                labels[place] = self.units.labels[other]
        return dataclasses.replace(self.units, pixels=seen, labels=labels, masks=masks)

    def _changed(self, place: int, other: int, random: np.random.Generator) -> tuple[Picture, Picture]:
        """The slice at `place` with what the slice `other` shows: its lesion, or its tissue where here is a lesion."""
        assert self.units.masks is not None
        here, there = self.units.pixels[place, ..., 0], self.units.pixels[other, ..., 0]
        if other in self.bodies:
            return laid(here, there, self.outlines[place]), self.units.masks[other, ..., 0]
        moved, where = placed(there, self.outlines[other], self.bodies[place], random)
        return laid(here, moved, where), preprocess.area(where, *self.units.masks.shape[1:3])


def outline(mask: Picture, shape: tuple[int, ...]) -> Picture:
    """A mask's cells (g, g), all that the lesion touches and those beside them, over a picture of that shape; it fades
    within a cell, in the tissue around the lesion."""
    scale = [side / cells for side, cells in zip(shape, mask.shape, strict=True)]
    touched = ndimage.binary_dilation(mask > 0).astype(np.float32)
    return np.asarray(ndimage.zoom(touched, scale, order=1, grid_mode=True, mode="nearest"), np.float32)


def inside(picture: Picture) -> NDArray[np.bool_]:
    """Where a picture (h, w) shows the body, what it encloses included and its rim left out."""
    body = ndimage.binary_fill_holes(picture > picture.mean() / 2)
    return np.asarray(ndimage.distance_transform_edt(body) > RIM * min(picture.shape))


def placed(
    picture: Picture, where: Picture, body: NDArray[np.bool_], random: np.random.Generator
) -> tuple[Picture, Picture]:
    """A picture and its outline (h, w), mirrored by chance, turned, resized and moved about the outline's middle, to a
    place in another's `body` not far from its own (anywhere in it, or where it was, if there is none)."""
    if random.random() < 0.5:
        picture, where = picture[:, ::-1], where[:, ::-1]
    angle, size = np.radians(random.uniform(-ANGLE, ANGLE)), random.uniform(SMALLER, LARGER)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / size
    middle = np.array(ndimage.center_of_mass(where))
    spots = np.argwhere(body)
    near = spots[np.abs(spots - middle).max(axis=1) <= NEAR * min(picture.shape)] if len(spots) else spots
    choice = near if len(near) else spots
    target = choice[random.integers(len(choice))] if len(choice) else middle
    half = [np.ptp(axis) / 2 + 1 for axis in where.nonzero()]
    reach = math.ceil(LARGER * math.hypot(*half))
    first, last = np.maximum(target - reach, 0).astype(int), np.minimum(target + reach, picture.shape).astype(int)
    window = tuple(slice(*ends) for ends in zip(first, last, strict=True))  # what lies outside of it stays empty
    told = {"matrix": turn, "offset": middle - turn @ (target - first), "order": 1, "output_shape": tuple(last - first)}
    moved, lies = np.zeros_like(picture), np.zeros_like(where)
    moved[window] = ndimage.affine_transform(picture, mode="nearest", **told)
    lies[window] = ndimage.affine_transform(where, mode="constant", **told)
    return moved, lies


def laid(here: Picture, there: Picture, where: Picture) -> Picture:
    """One picture with another's pixels where the outline is; these as light as the surroundings at its edge are."""
    edge = where * (1 - where)
    light = float((here * edge).sum()) / max(float((there * edge).sum()), 1e-6)
    lit = np.clip(there * np.float32(np.clip(light, 1 / GAIN, GAIN)), 0, 1)
    mixed: Picture = here * (1 - where) + lit * where
    return mixed
