"""The networks: four backbones by name, each ending in global average pooling and one linear layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from lineage.errors import Fault
from training.network.feature_grid import cells
from training.network.layers import BatchNormalization, LocalContrast, Scaled
from training.settings import ALL, HEAD, FitSettings

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
BACKBONES = ("small", "resnet50", "vgg16", "efficientnetv2b0")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOUCH = 0.05  # of a cell: what resampling leaves of a lesion beside it is less
CAFFE_MEAN = (103.939, 116.779, 123.68)  # what ResNet-50 and VGG-16 of keras.applications subtract, in grey levels


def build(settings: FitSettings, classes: int, size: int) -> Any:
    """The inference network: `pixels` (n, size, size, 1) in [0, 1] to `logits` (n, classes).

    The layer `features` holds the last feature maps (n, h, w, d); `logits` is linear in their average, so the class
    activation map of serving/inference/heatmap.py is exact. Augmentation is not part of it.
    """
    for name, value, known in (
        ("backbone", settings.backbone, BACKBONES),
        ("precision", settings.precision, PRECISIONS),
    ):
        if value not in known:
            raise Fault(f"fit.{name} {value!r} is unknown: use one of {', '.join(known)}")
    window = settings.local_contrast
    if window and (settings.backbone != "small" or not 3 <= window <= size or window % 2 == 0):
        raise Fault(
            f"fit.local_contrast {window} must be 0 (off) or, for the backbone small, an odd number of pixels "
            f"from 3 to {size}"
        )
    pixels = keras.Input((size, size, 1), name="pixels")
    with _computing_in(PRECISIONS[settings.precision]):
        maps = _small(pixels, window) if settings.backbone == "small" else _application(pixels, settings)
    features = layers.Identity(name="features", dtype="float32")(maps)
    pooled = layers.GlobalAveragePooling2D(name="pooled")(features)
    network = keras.Model(pixels, layers.Dense(classes, name="logits")(pooled), name=settings.backbone)
    if settings.weights not in ("none", "imagenet"):
        _load(network, settings.weights)
    return network


def with_features(network: Any) -> Any:
    """The same network with two outputs, `logits` and `features`: what is exported."""
    features = network.get_layer("features").output
    return keras.Model(network.input, {"logits": network.output, "features": features}, name=network.name)


def loss(ordered: bool) -> Any:
    """The loss of logits (n, classes) against labels (n): cross-entropy, or one that knows the order of the classes."""
    return squared_earth_movers if ordered else keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def squared_earth_movers(labels: Any, logits: Any) -> Any:
    """Squared earth mover's distance (n) of softmax to the true class, the classes a step apart in their order.

    The mean over the classes of the squared difference of the two cumulative distributions (Hou, Yu and Samaras,
    arXiv:1611.05916, 2016, equation 9).
    """
    classes = logits.shape[-1]
    truth = ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), classes)
    gaps = ops.cumsum(ops.softmax(logits), axis=-1) - ops.cumsum(truth, axis=-1)
    return ops.mean(ops.square(gaps), axis=-1)


class Pointing(layers.Layer):  # type: ignore[misc]
    """Logits as they came, and while it is fitted a loss of where their evidence lies.

    The linear layer at each position of the feature maps gives that position's evidence; their mean is the logits.
    Cross-entropy of (positive classes minus the others, by a scale and a shift of its own) against "the lesion is
    here", positions in and out of lesions with half the weight each. Units without a mask (below 0) are left out.
    """

    def __init__(self, weight: float, positive: Sequence[int], classes: int) -> None:
        super().__init__(name="pointing")
        told = np.isin(np.arange(classes), positive)
        self.share, self.contrast = weight, np.where(told, 1 / told.sum(), -1 / (~told).sum()).astype(np.float32)

        # at first a position without evidence most likely shows no lesion (0.12)
        self.scale = self.add_weight(name="scale", shape=(), initializer=keras.initializers.Constant(np.log(0.3)))
        self.shift = self.add_weight(name="shift", shape=(), initializer=keras.initializers.Constant(-2.0))

    def call(self, logits: Any, evidence: Any, masks: Any, training: bool = False) -> Any:
        """`logits` (n, classes), with `evidence` (n, h, w, classes) and `masks` (n, g, g, 1)."""
        if training:
            lesion = covered(masks, evidence.shape[1:3])
            told = ops.exp(self.scale) * ops.sum(evidence * self.contrast, axis=-1) + self.shift
            inside = ops.cast(lesion > TOUCH, "float32")
            outside = ops.cast(lesion > -0.5, "float32") - inside
            wrong = ops.softplus(told) - told * inside
            parts = [ops.sum(wrong * each) / ops.maximum(ops.sum(each), 1.0) for each in (inside, outside)]
            self.add_loss(self.share * 0.5 * (parts[0] + parts[1]))
        return logits


def covered(masks: Any, shape: tuple[int, int]) -> Any:
    """The largest share among the cells of masks (n, g, g, 1) that each position of a feature map covers: (n, h, w)."""
    rows, columns = (cells(masks.shape[1], count) for count in shape)
    bands = ops.stack([ops.max(masks[:, band, :, 0], axis=1) for band in rows], axis=1)
    return ops.stack([ops.max(bands[:, :, band], axis=2) for band in columns], axis=2)


def with_augmentation(
    network: Any, augment: Any, mask_weight: float = 0.0, positive: Sequence[int] = (), grid: int | None = None
) -> Any:
    """What is fitted: the network behind its augmentation; given masks of `grid` cells a side, told where lesions are.

    The second takes {"pixels", "masks"} and has two weights more, which are none of the network's.
    """
    pixels = keras.Input(network.input_shape[1:], name="pixels")
    if grid is None:
        return keras.Model(pixels, network(augment(pixels)))
    masks = keras.Input((grid, grid, 1), name="masks")
    seen, moved = augment(pixels, masks)
    both, linear = with_features(network)(seen), network.get_layer("logits")
    pointing = Pointing(mask_weight, positive, network.output_shape[-1])
    logits = pointing(both["logits"], linear(both["features"]), moved)
    return keras.Model({"pixels": pixels, "masks": masks}, logits)


@contextmanager
def _computing_in(policy: str) -> Iterator[None]:
    """New layers compute by that policy of Keras."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def freeze(network: Any, learns: str) -> None:
    """Let learn: all, the head alone, or the backbone from the layer of that name on, and the head.

    What is frozen keeps its weights, and its batch normalisation the averages that it came with. Raises Fault for a
    name that is no layer of the backbone.
    """
    parts = [layer for layer in (_inner(network) or network).layers if layer.name not in ("pooled", "logits")]
    names = [layer.name for layer in parts]
    if learns not in (ALL, HEAD, *names):
        known = ", ".join(layer.name for layer in parts if layer.weights)
        raise Fault(f"fit.unfreeze_from {learns!r} is no layer of {network.name}: use all, or one of {known}")
    frozen = 0 if learns == ALL else names.index(learns) if learns in names else len(names)
    for place, layer in enumerate(parts):
        layer.trainable = place >= frozen


def _inner(network: Any) -> Any:
    """The network of keras.applications within one of ours; None in `small`."""
    return next((layer for layer in network.layers if isinstance(layer, keras.Model)), None)


def _load(network: Any, path: str) -> None:
    """Weights of a network of ours, or of the bare one of keras.applications (include_top=False, three channels)."""
    if not Path(path).is_file():
        raise Fault(f"fit.weights {path!r} is no file: use none, imagenet, or the path of a .weights.h5 file")
    told = []
    for part in (network, _inner(network)):
        try:
            if part is not None:
                part.load_weights(path)
                return
        except (ValueError, KeyError, OSError) as error:
            told.append(str(error).splitlines()[0])
    bare = f", nor keras.applications' {network.name} with include_top=False" if len(told) > 1 else ""
    raise Fault(f"{path}: these weights do not fit {network.name}{bare} ({told[0]})")


def _small(pixels: Any, window: int) -> Any:
    """Our own CNN for a CPU and few scans: a stem of stride four, then one residual stage at 1/8 of the picture.

    A position of the last maps sees 48 pixels across. Layers at full size would cost most of the time of a fit. With a
    `window` the local contrast is seen beside the grey values.
    """
    seen = Scaled([2.0], [-1.0])(pixels)
    seen = layers.Concatenate(name="seen")([seen, LocalContrast(window)(pixels)]) if window else seen
    maps = _convolution(seen, "conv1", 32, kernel=8, stride=4)
    maps = _convolution(maps, "conv2", 64, stride=2)
    inner = _convolution(_convolution(maps, "conv3", 64), "conv4", 64, activate=False)
    return _convolution(layers.ReLU()(layers.Add()([maps, inner])), "conv5", 128, kernel=1)


def _convolution(maps: Any, name: str, channels: int, kernel: int = 3, stride: int = 1, activate: bool = True) -> Any:
    """Convolution and batch normalisation."""
    maps = layers.Conv2D(
        channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )(maps)
    maps = BatchNormalization(name=f"{name}_norm")(maps)
    return layers.ReLU()(maps) if activate else maps


def _application(pixels: Any, settings: FitSettings) -> Any:
    """A backbone of keras.applications behind the scaling that its ImageNet weights were made with."""
    grey = layers.Concatenate(name="rgb")([pixels, pixels, pixels])
    if settings.backbone == "efficientnetv2b0":
        scale = [1 / std for std in IMAGENET_STD]
        offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
        make, extra = keras.applications.EfficientNetV2B0, {"include_preprocessing": False}
    else:
        scale, offset = [255.0] * 3, [-mean for mean in CAFFE_MEAN]
        make = keras.applications.ResNet50 if settings.backbone == "resnet50" else keras.applications.VGG16
        extra = {}
    scaled = Scaled(scale, offset)(grey)
    weights = "imagenet" if settings.weights == "imagenet" else None
    try:
        backbone = make(include_top=False, weights=weights, input_shape=(*pixels.shape[1:3], 3), **extra)
    except Exception as error:  # the download of keras raises a bare Exception
        if weights is None:
            raise
        raise Fault(
            f"the ImageNet weights of {settings.backbone} could not be fetched ({error}); fetch them where there is "
            "a network, or set fit.weights to a weights file or to none"
        ) from error
    return backbone(scaled)
