"""The first four stages of EfficientNet-Lite0 as an ONNX graph, whose vectors describe texture and shape of a slice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineage import atomic_write
from serving.descriptor import pretrained_weights

INPUT, VECTOR = "pixels", "vector"
SIZE = 128  # pixels of the input's side
VERSION = "efficientnet-lite0-stages-1-to-4"
MEAN, SCALE = 0.498, 0.502  # of the pixels in [0, 1], as in the training of the network
BATCH_NORM_EPSILON = 1e-3
CEILING = 6.0  # of the activation ReLU6
# (blocks, kernel, stride, expansion, channels in, channels out) of each stage: Tan and Le, ICML 2019, table 1, in the
# Lite variant without squeeze-and-excitation. Later stages know objects, not texture: with them fewer kinds of picture
# were refused (docs/benchmarks.md).
STAGES = ((1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80))
WIDTH = 2 * sum(stage[-1] for stage in STAGES)  # mean and standard deviation of each channel of each stage


@dataclass
class _GraphWriter:
    """Nodes and constants of a graph under construction; every method returns the name of its output."""

    weights: dict[str, NDArray[Any]]
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        output = f"node_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def convolution(self, image: str, kernel: str, norm: str, stride: int = 1, groups: int = 1) -> str:
        """A convolution with its batch normalisation folded into kernel and bias."""
        factor = self.weights[f"{norm}.weight"] / np.sqrt(
            self.weights[f"{norm}.running_var"].astype(np.float64) + BATCH_NORM_EPSILON
        )
        values = self.weights[f"{kernel}.weight"] * factor[:, None, None, None]
        bias = self.weights[f"{norm}.bias"] - self.weights[f"{norm}.running_mean"] * factor
        return self.node(
            "Conv",
            [image, self.constant(values.astype(np.float32)), self.constant(bias.astype(np.float32))],
            strides=[stride, stride],
            group=groups,
            auto_pad="SAME_UPPER",
            kernel_shape=list(values.shape[2:]),
        )

    def relu6(self, image: str) -> str:
        return self.node("Clip", [image, self.constant(np.float32(0)), self.constant(np.float32(CEILING))])

    def block(self, image: str, number: int, stride: int, expansion: int, channels: int, is_residual: bool) -> str:
        """An inverted residual block with `channels` input channels (Sandler et al., CVPR 2018)."""
        name, inner = f"_blocks.{number}", image
        if expansion > 1:
            inner = self.relu6(self.convolution(inner, f"{name}._expand_conv", f"{name}._bn0"))
        inner = self.relu6(
            self.convolution(inner, f"{name}._depthwise_conv", f"{name}._bn1", stride, channels * expansion)
        )
        inner = self.convolution(inner, f"{name}._project_conv", f"{name}._bn2")
        return self.node("Add", [image, inner]) if is_residual else inner

    def moments(self, image: str) -> list[str]:
        """The mean and the standard deviation of each channel."""
        mean = self.node("ReduceMean", [image], axes=[2, 3], keepdims=1)
        deviation = self.node("Sub", [image, mean])
        variance = self.node("ReduceMean", [self.node("Mul", [deviation, deviation])], axes=[2, 3], keepdims=0)
        return [self.node("Flatten", [mean], axis=1), self.node("Sqrt", [variance])]


def write_graph(path: Path) -> None:
    """Write the graph: `pixels` (n, 128, 128, 1) in [0, 1] to `vector` (n, 320), both float32."""
    import onnx
    from onnx import TensorProto, helper

    writer = _GraphWriter(pretrained_weights.read_weights())
    image = writer.node("Transpose", [INPUT], perm=[0, 3, 1, 2])
    image = writer.node("Sub", [image, writer.constant(np.float32(MEAN))])
    image = writer.node("Div", [image, writer.constant(np.float32(SCALE))])
    image = writer.node("Concat", [image, image, image], axis=1)  # grey as red, green and blue
    image = writer.relu6(writer.convolution(image, "_conv_stem", "_bn0", stride=2))
    number, moments = 0, []
    for blocks, _, stride, expansion, channels_in, channels_out in STAGES:
        for position in range(blocks):
            is_first = position == 0
            channels = channels_in if is_first else channels_out
            image = writer.block(image, number, stride if is_first else 1, expansion, channels, not is_first)
            number += 1
        moments += writer.moments(image)
    writer.nodes.append(helper.make_node("Concat", moments, [VECTOR], axis=1))
    graph = helper.make_graph(
        writer.nodes,
        VERSION,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", SIZE, SIZE, 1])],
        [helper.make_tensor_value_info(VECTOR, TensorProto.FLOAT, ["n", WIDTH])],
        writer.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write.replace_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
