"""The networks: four backbones, each with global average pooling and one linear layer at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
from keras import layers, ops

from lineage.errors import Fault
from training.network.feature_grid import cells_by_position
from training.network.layers import BatchNormalization, LocalContrast, Scaled
from training.settings import ALL, HEAD, Backbone, FitSettings

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
BACKBONES: tuple[str, ...] = get_args(Backbone)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIN_LESION_SHARE = 0.05  # of a cell: resampling leaves less than this in cells beside a lesion
CAFFE_MEAN = (103.939, 116.779, 123.68)  # grey levels that ResNet-50 and VGG-16 of keras.applications subtract


def build(settings: FitSettings, classes: int, size: int) -> Any:
    """The inference network: `pixels` (n, size, size, 1) in [0, 1] to `logits` (n, classes).

    The layer `features` holds the last feature maps (n, h, w, d); `logits` is linear in their average, so the class
    activation map of serving/inference/heatmap.py is exact. Augmentation is not part of the network.
    """
    for name, setting, choices in (
        ("backbone", settings.backbone, BACKBONES),
        ("precision", settings.precision, PRECISIONS),
    ):
        if setting not in choices:
            raise Fault(f"fit.{name} {setting!r} is unknown: use one of {', '.join(choices)}")
    window = settings.local_contrast
    if window and (settings.backbone != "small" or not 3 <= window <= size or window % 2 == 0):
        raise Fault(
            f"fit.local_contrast {window} must be 0 (off) or, for the backbone small, an odd number of pixels "
            f"from 3 to {size}"
        )
    pixels = keras.Input((size, size, 1), name="pixels")
    with _dtype_policy(PRECISIONS[settings.precision]):
        maps = _small_backbone(pixels, window) if settings.backbone == "small" else _keras_application(pixels, settings)
    features = layers.Identity(name="features", dtype="float32")(maps)
    pooled = layers.GlobalAveragePooling2D(name="pooled")(features)
    network = keras.Model(pixels, layers.Dense(classes, name="logits")(pooled), name=settings.backbone)
    if settings.weights not in ("none", "imagenet"):
        _load_weights(network, settings.weights)
    return network


def with_features(network: Any) -> Any:
    """The same network with the two outputs of the exported graph, `logits` and `features`."""
    features = network.get_layer("features").output
    return keras.Model(network.input, {"logits": network.output, "features": features}, name=network.name)


def loss(ordered: bool) -> Any:
    """The loss of logits (n, classes) against labels (n): cross-entropy, or earth mover's for ordered classes."""
    return squared_earth_movers if ordered else keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def squared_earth_movers(labels: Any, logits: Any) -> Any:
    """Squared earth mover's distance (n) of the softmax to the true class, with neighbouring classes one step apart.

    The mean over the classes of the squared difference of the two cumulative distributions (Hou, Yu and Samaras,
    arXiv:1611.05916, 2016, equation 9).
    """
    classes = logits.shape[-1]
    one_hot = ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), classes)
    gaps = ops.cumsum(ops.softmax(logits), axis=-1) - ops.cumsum(one_hot, axis=-1)
    return ops.mean(ops.square(gaps), axis=-1)


class LocalisationLoss(layers.Layer):  # type: ignore[misc]
    """Unchanged logits, and in training a loss on the location of their evidence.

    The linear layer applied at each position of the feature maps gives that position's evidence; its mean is the
    logits. The loss is the cross-entropy of "the lesion is here" from the evidence of the positive classes minus that
    of the others, with a learned scale and shift. Positions inside and outside lesions have half the weight each.
    Units without a mask (values below 0) are left out.
    """

    def __init__(self, weight: float, positive: Sequence[int], classes: int) -> None:
        super().__init__(name="pointing")
        is_positive = np.isin(np.arange(classes), positive)
        self.mask_weight, self.contrast = (
            weight,
            np.where(is_positive, 1 / is_positive.sum(), -1 / (~is_positive).sum()).astype(np.float32),
        )

        # initial values: a position without evidence has a lesion probability of 0.12
        self.scale = self.add_weight(name="scale", shape=(), initializer=keras.initializers.Constant(np.log(0.3)))
        self.shift = self.add_weight(name="shift", shape=(), initializer=keras.initializers.Constant(-2.0))

    def call(self, logits: Any, evidence: Any, masks: Any, training: bool = False) -> Any:
        """Return `logits` (n, classes); `evidence` is (n, h, w, classes), `masks` (n, g, g, 1)."""
        if training:
            lesion = max_pool_masks(masks, evidence.shape[1:3])
            score = ops.exp(self.scale) * ops.sum(evidence * self.contrast, axis=-1) + self.shift
            inside = ops.cast(lesion > MIN_LESION_SHARE, "float32")
            outside = ops.cast(lesion > -0.5, "float32") - inside
            error = ops.softplus(score) - score * inside
            losses = [ops.sum(error * mask) / ops.maximum(ops.sum(mask), 1.0) for mask in (inside, outside)]
            self.add_loss(self.mask_weight * 0.5 * (losses[0] + losses[1]))
        return logits


def max_pool_masks(masks: Any, shape: tuple[int, int]) -> Any:
    """Max-pool masks (n, g, g, 1) to the positions of a feature map of that shape: (n, h, w)."""
    row_ranges, column_ranges = (cells_by_position(masks.shape[1], count) for count in shape)
    row_bands = ops.stack([ops.max(masks[:, cell_range, :, 0], axis=1) for cell_range in row_ranges], axis=1)
    return ops.stack([ops.max(row_bands[:, :, cell_range], axis=2) for cell_range in column_ranges], axis=2)


def with_augmentation(
    network: Any, augment: Any, mask_weight: float = 0.0, positive: Sequence[int] = (), grid: int | None = None
) -> Any:
    """The model that is fitted: augmentation, then the network, and the localisation loss if there are masks.

    With masks of `grid` cells a side its input is {"pixels", "masks"}, and it has two more weights than the network.
    """
    pixels = keras.Input(network.input_shape[1:], name="pixels")
    if grid is None:
        return keras.Model(pixels, network(augment(pixels)))
    masks = keras.Input((grid, grid, 1), name="masks")
    augmented, moved_masks = augment(pixels, masks)
    outputs, linear_layer = with_features(network)(augmented), network.get_layer("logits")
    localisation = LocalisationLoss(mask_weight, positive, network.output_shape[-1])
    logits = localisation(outputs["logits"], linear_layer(outputs["features"]), moved_masks)
    return keras.Model({"pixels": pixels, "masks": masks}, logits)


@contextmanager
def _dtype_policy(policy: str) -> Iterator[None]:
    """New layers in this context use that Keras dtype policy."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def set_trainable(network: Any, trainable_from: str) -> None:
    """Choose the trainable layers: all, only the head, or the head and the backbone from the named layer on.

    Frozen layers keep their weights and their batch normalisation averages. Raises Fault if the backbone has no layer
    of that name.
    """
    backbone_layers = [
        layer for layer in (_keras_backbone(network) or network).layers if layer.name not in ("pooled", "logits")
    ]
    names = [layer.name for layer in backbone_layers]
    if trainable_from not in (ALL, HEAD, *names):
        choices = ", ".join(layer.name for layer in backbone_layers if layer.weights)
        raise Fault(f"fit.unfreeze_from {trainable_from!r} is no layer of {network.name}: use all, or one of {choices}")
    frozen_count = (
        0 if trainable_from == ALL else names.index(trainable_from) if trainable_from in names else len(names)
    )
    for position, layer in enumerate(backbone_layers):
        layer.trainable = position >= frozen_count


def _keras_backbone(network: Any) -> Any:
    """The nested network of keras.applications; None in `small`."""
    return next((layer for layer in network.layers if isinstance(layer, keras.Model)), None)


def _load_weights(network: Any, path: str) -> None:
    """Load weights of a whole network, or of a plain keras.applications one (include_top=False, three channels)."""
    if not Path(path).is_file():
        raise Fault(f"fit.weights {path!r} is no file: use none, imagenet, or the path of a .weights.h5 file")
    messages = []
    for candidate in (network, _keras_backbone(network)):
        try:
            if candidate is not None:
                candidate.load_weights(path)
                return
        except (ValueError, KeyError, OSError) as error:
            messages.append(str(error).splitlines()[0])
    alternative = f", nor keras.applications' {network.name} with include_top=False" if len(messages) > 1 else ""
    raise Fault(f"{path}: these weights do not fit {network.name}{alternative} ({messages[0]})")


def _small_backbone(pixels: Any, window: int) -> Any:
    """A small CNN for CPUs and few scans: a stem of stride four, then one residual stage at 1/8 of the image size.

    The receptive field of the last maps is 48 pixels wide. Layers at full size would take most of the time of a fit.
    With a `window` the local contrast is a second input channel.
    """
    inputs = Scaled([2.0], [-1.0])(pixels)
    inputs = layers.Concatenate(name="seen")([inputs, LocalContrast(window)(pixels)]) if window else inputs
    maps = _conv_block(inputs, "conv1", 32, kernel=8, stride=4)
    maps = _conv_block(maps, "conv2", 64, stride=2)
    residual = _conv_block(_conv_block(maps, "conv3", 64), "conv4", 64, activate=False)
    return _conv_block(layers.ReLU()(layers.Add()([maps, residual])), "conv5", 128, kernel=1)


def _conv_block(maps: Any, name: str, channels: int, kernel: int = 3, stride: int = 1, activate: bool = True) -> Any:
    """Convolution and batch normalisation."""
    maps = layers.Conv2D(
        channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )(maps)
    maps = BatchNormalization(name=f"{name}_norm")(maps)
    return layers.ReLU()(maps) if activate else maps


def _keras_application(pixels: Any, settings: FitSettings) -> Any:
    """A backbone of keras.applications after the input scaling of its ImageNet weights."""
    grey = layers.Concatenate(name="rgb")([pixels, pixels, pixels])
    if settings.backbone == "efficientnetv2b0":
        scale = [1 / std for std in IMAGENET_STD]
        offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
        application, options = keras.applications.EfficientNetV2B0, {"include_preprocessing": False}
    else:
        scale, offset = [255.0] * 3, [-mean for mean in CAFFE_MEAN]
        application = keras.applications.ResNet50 if settings.backbone == "resnet50" else keras.applications.VGG16
        options = {}
    scaled = Scaled(scale, offset)(grey)
    weights = "imagenet" if settings.weights == "imagenet" else None
    try:
        backbone = application(include_top=False, weights=weights, input_shape=(*pixels.shape[1:3], 3), **options)
    except Exception as error:  # the download in Keras raises a bare Exception
        if weights is None:
            raise
        raise Fault(
            f"the ImageNet weights of {settings.backbone} could not be downloaded ({error}); download them on a "
            "machine with network access, or set fit.weights to a weights file or to none"
        ) from error
    return backbone(scaled)
