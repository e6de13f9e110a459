"""Copy-paste augmentation of lesions between training slices."""

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

MAX_ANGLE = 60.0  # degrees of rotation in either direction
MIN_SCALE, MAX_SCALE = 0.7, 1.4  # of the lesion's size
MAX_SHIFT = 0.25  # of the image side, from the old position of a lesion
MIN_DEPTH = 0.06  # of the image side, below the surface of the body
MAX_GAIN = 1.4  # of the brightness change that matches a lesion to its new surroundings
Image = NDArray[np.float32]


class LesionPaste:
    """Copy-paste augmentation of training units (Ghiasi et al., CVPR 2021; brain lesions: Zhang et al., MICCAI 2021).

    A `share` of the units with an empty mask get the lesion of another unit. The same share of the units with a lesion
    get tissue of a unit without one in its place. A changed unit gets the label of what it then shows. So a network
    sees lesions at positions where no training patient has one, and these positions without a lesion. A unit of an
    `unclear` class (Task.unclear_index) with an empty mask is left out: its lesion status is unknown.
    """

    def __init__(self, units: Units, share: float, seed: int, unclear: Sequence[int] = ()) -> None:
        if not 0 <= share <= 1:
            raise Fault(f"fit.augment.paste is {share}: use a share between 0 and 1")
        self.units, self.share, self.seed = units, share, seed
        self.outlines_by_position: dict[int, Image] = {}  # by position of the units with a lesion
        self.bodies_by_position: dict[int, NDArray[np.bool_]] = {}  # by position of the units with an empty mask
        if units.masks is None or not share:
            return
        for position in map(int, np.flatnonzero(units.masked)):
            image, mask = units.pixels[position, ..., 0], units.masks[position, ..., 0]
            if mask.any():
                self.outlines_by_position[position] = soft_outline(mask, image.shape)
            elif units.labels[position] not in unclear:
                self.bodies_by_position[position] = body_interior(image)

    def augment_epoch(self, epoch: int) -> Units:
        """The units of that epoch (from 0) with changed pixels, labels and masks; depends on seed and epoch only."""
        if not self.outlines_by_position or not self.bodies_by_position or self.units.masks is None:
            return self.units
        with_lesion = np.fromiter(self.outlines_by_position, np.int64)
        without_lesion = np.fromiter(self.bodies_by_position, np.int64)
        random = np.random.default_rng([self.seed, epoch, 1])
        pixels, labels, masks = self.units.pixels.copy(), self.units.labels.copy(), self.units.masks.copy()
        for targets, sources in ((without_lesion, with_lesion), (with_lesion, without_lesion)):
            for target in targets[random.random(len(targets)) < self.share]:
                source = int(random.choice(sources))
                pixels[target, ..., 0], masks[target, ..., 0] = self._change_unit(int(target), source, random)
                labels[target] = self.units.labels[source]
        return dataclasses.replace(self.units, pixels=pixels, labels=labels, masks=masks)

    def _change_unit(self, target: int, source: int, random: np.random.Generator) -> tuple[Image, Image]:
        """Image and mask of unit `target` with the lesion of unit `source`, or with its tissue over the own lesion."""
        assert self.units.masks is not None
        target_image, source_image = self.units.pixels[target, ..., 0], self.units.pixels[source, ..., 0]
        if source in self.bodies_by_position:
            image = blend(target_image, source_image, self.outlines_by_position[target])
            return image, self.units.masks[source, ..., 0]
        lesion_image, lesion_outline = transform_lesion(
            source_image, self.outlines_by_position[source], self.bodies_by_position[target], random
        )
        image = blend(target_image, lesion_image, lesion_outline)
        return image, preprocess.resize_by_area(lesion_outline, *self.units.masks.shape[1:3])


def soft_outline(mask: Image, shape: tuple[int, ...]) -> Image:
    """A mask (g, g), dilated by one cell and resampled to an image of that shape.

    Its edge falls from 1 to 0 within one cell, in the tissue around the lesion.
    """
    scale = [side / cells for side, cells in zip(shape, mask.shape, strict=True)]
    dilated = ndimage.binary_dilation(mask > 0).astype(np.float32)
    return np.asarray(ndimage.zoom(dilated, scale, order=1, grid_mode=True, mode="nearest"), np.float32)


def body_interior(image: Image) -> NDArray[np.bool_]:
    """Where an image (h, w) shows the body, with enclosed holes and without its rim."""
    body = ndimage.binary_fill_holes(image > image.mean() / 2)
    return np.asarray(ndimage.distance_transform_edt(body) > MIN_DEPTH * min(image.shape))


def transform_lesion(
    image: Image, outline_map: Image, body: NDArray[np.bool_], random: np.random.Generator
) -> tuple[Image, Image]:
    """An image and its outline (h, w), randomly mirrored, rotated, scaled and shifted about the outline's centre.

    The new centre is a random position of `body` within `MAX_SHIFT` of the old one; if there is none, any position of
    `body`; if `body` is empty, the old centre.
    """
    if random.random() < 0.5:
        image, outline_map = image[:, ::-1], outline_map[:, ::-1]
    angle, size = np.radians(random.uniform(-MAX_ANGLE, MAX_ANGLE)), random.uniform(MIN_SCALE, MAX_SCALE)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / size
    centre = np.array(ndimage.center_of_mass(outline_map))
    body_positions = np.argwhere(body)
    nearby = body_positions
    if len(body_positions):
        nearby = body_positions[np.abs(body_positions - centre).max(axis=1) <= MAX_SHIFT * min(image.shape)]
    candidates = nearby if len(nearby) else body_positions
    target = candidates[random.integers(len(candidates))] if len(candidates) else centre
    half_sides = [np.ptp(axis) / 2 + 1 for axis in outline_map.nonzero()]
    radius = math.ceil(MAX_SCALE * math.hypot(*half_sides))
    first, last = np.maximum(target - radius, 0).astype(int), np.minimum(target + radius, image.shape).astype(int)
    window = tuple(slice(*ends) for ends in zip(first, last, strict=True))  # the rest stays zero
    options = {
        "matrix": rotation,
        "offset": centre - rotation @ (target - first),
        "order": 1,
        "output_shape": tuple(last - first),
    }
    moved_image, moved_outline = np.zeros_like(image), np.zeros_like(outline_map)
    moved_image[window] = ndimage.affine_transform(image, mode="nearest", **options)
    moved_outline[window] = ndimage.affine_transform(outline_map, mode="constant", **options)
    return moved_image, moved_outline


def blend(target: Image, source: Image, outline_map: Image) -> Image:
    """Paste `source` into `target` where the outline is, with its brightness matched at the outline's edge."""
    edge = outline_map * (1 - outline_map)
    gain = float((target * edge).sum()) / max(float((source * edge).sum()), 1e-6)
    adjusted = np.clip(source * np.float32(np.clip(gain, 1 / MAX_GAIN, MAX_GAIN)), 0, 1)
    blended: Image = target * (1 - outline_map) + adjusted * outline_map
    return blended
