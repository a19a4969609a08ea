"""Ranges of a network's values over sample inputs, from our own fp32 graph with taps.

The graph is the plain one, whatever the target. Every value of it becomes an output, ONNX Runtime
runs it, and the extremes are kept by the value's name: the names of `OnnxOps`, which ranges,
islands and error messages share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from levit.errors import ExportError, VerificationError, brief
from levit.export.interface import input_spec
from levit.export.onnx.ops import OnnxOps, Value
from levit.export.precision import PRECISIONS
from levit.models.layers import parts_of_attentions
from levit.models.model import Model
from levit.models.ops import Array
from levit.models.pictures import smooth_pictures, standardized
from levit.pictures.preprocess import PreprocessSpec, normalize

__all__ = ["TOGETHER", "Ranges", "Taps", "open_graph", "sample_inputs", "scan_ranges"]

_OPSET: Final = PRECISIONS["fp32"].default_opset
_ERRORS_ONLY: Final = 3
# Beside the golden inputs. Values of one picture are, within a factor, those of all: more pictures
# cost time and move the extremes little, which the headroom is for.
_PICTURES: Final = 5
# Images in one run: of more, each takes no less time, and their values take memory.
TOGETHER: Final = 8


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The extremes of every value by name, over all inputs.

    Attributes:
        low, high: per entry of axis 1, which in a channels-first graph are the channels; of
            a value without such an axis, one entry.
    """

    low: Mapping[str, Array]
    high: Mapping[str, Array]

    def channels(self, name: str) -> Array:
        """The largest magnitude of each entry of axis 1."""
        peaks: Array = np.maximum(np.abs(self.low[name]), np.abs(self.high[name]))
        return peaks

    def peak(self, name: str) -> float:
        """The largest magnitude."""
        return float(self.channels(name).max())


class Taps:
    """A model's fp32 graph whose values can all be read.

    Args:
        model: in the dataflow whose values are asked for.
        names: of the values to read; all floats by default, the input among them.
        of_layers: read only the inputs of layers, and the results of convolutions and of those
            that make queries, keys and values.

    Attributes:
        outputs: of the model by name: the values that they are.
        weights: the graph's float weights by name, as float32.
        nodes: of the graph, in order.
        layers: its convolutions and Linears by path.
        scopes: the path at which each value or weight is made.

    Raises:
        ExportError: a weight is not finite, or ONNX Runtime refuses the graph.
    """

    def __init__(
        self,
        model: Model,
        names: Collection[str] | None = None,
        *,
        of_layers: bool = False,
    ) -> None:
        source = input_spec(model, 1)
        image = Value(source.name, tuple(map(int, source.shape)), source.dtype)
        ops = OnnxOps(_OPSET)
        values = model.forward(ops, image)
        self.outputs = {key: ops.as_float32(value).name for key, value in values.items()}
        self.layers = ops.layers
        self.scopes = ops.scopes
        if of_layers:
            layers = ops.layers.values()
            names = {layer.input.name for layer in layers}
            names |= {layer.output.name for layer in layers if layer.kernel}
            names |= {ops.layers[part].output.name for part in parts_of_attentions(model.params)}
        made = [value.name for value in ops.values if value.dtype == "float32"]
        self._input = image
        self._names = [name for name in made if names is None or name in names]
        readable = list(dict.fromkeys([*self._names, *self.outputs.values()]))
        self.weights = {
            name: np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims)
            for name, tensor in ops.initializers.items()
            if tensor.data_type == TensorProto.FLOAT
        }
        self.nodes = ops.nodes
        kind = TensorProto.UINT8 if image.dtype == "uint8" else TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "taps",
            [helper.make_tensor_value_info(image.name, kind, ["batch", *image.shape[1:]])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in readable],
            initializer=list(ops.initializers.values()),
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        ir_version = helper.find_min_ir_version_for(opsets)
        self._session = open_graph(
            helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
        )

    def reads(self, name: str) -> bool:
        """True for a value that `run` gives."""
        return name in self._names

    def run(self, images: Array) -> Iterator[dict[str, Array]]:
        """(N, …) → for each image in turn, its values by name, with a batch axis of 1."""
        for i in range(len(images)):
            yield self.run_together(images[i : i + 1])

    def run_together(self, images: Array) -> dict[str, Array]:
        """(N, …) → values by name, of all images at once: (N, …)."""
        images = np.ascontiguousarray(images)
        found = self._session.run(self._names, {self._input.name: images})
        values = dict(zip(self._names, found, strict=True))
        if self._input.dtype == "float32":
            values[self._input.name] = images
        return values

    def forward(self, images: Array) -> dict[str, Array]:
        """(N, …) → the model's outputs by name."""
        names = list(self.outputs.values())
        images = np.ascontiguousarray(images)
        rows = [
            self._session.run(names, {self._input.name: images[i : i + TOGETHER]})
            for i in range(0, len(images), TOGETHER)
        ]
        columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
        return dict(zip(self.outputs, columns, strict=True))


def open_graph(proto: onnx.ModelProto) -> Any:
    """A session of ONNX Runtime on the CPU, on as many threads as it likes.

    Raises:
        ExportError: it refuses the graph.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(
            proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own share no public base
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} refuses the fp32 graph ({brief(error)}): "
            f"this is a bug: please report it"
        ) from error


def scan_ranges(taps: Taps, images: Array) -> Ranges:
    """The extremes of every tapped value over `images`, one image at a time.

    Raises:
        VerificationError: one is not finite.
    """
    low: dict[str, Array] = {}
    high: dict[str, Array] = {}
    for values in taps.run(images):
        for name, value in values.items():
            least, most = _extremes(value)
            if not (np.isfinite(least).all() and np.isfinite(most).all()):
                raise VerificationError(
                    f"{name}: values leave the range of float32 on a sample picture; nothing is "
                    f"written"
                )
            low[name] = np.minimum(low[name], least) if name in low else least
            high[name] = np.maximum(high[name], most) if name in high else most
    return Ranges(low=low, high=high)


def _extremes(value: NDArray[Any]) -> tuple[Array, Array]:
    if value.ndim < 2:
        return value.min(keepdims=True).reshape(1), value.max(keepdims=True).reshape(1)
    rows = value.reshape(value.shape[1], -1)  # the batch is 1
    return rows.min(axis=1), rows.max(axis=1)


def sample_inputs(model: Model, golden: Array, spec: PreprocessSpec | None) -> Array:
    """The golden inputs and some more smooth pictures, always the same.

    Args:
        golden: inputs of the model.
        spec: how pictures are normalised; None where the model takes tensors only.
    """
    config = model.config
    rng = np.random.default_rng(20210405)
    white = 255 if spec is None else spec.white
    pictures = smooth_pictures(rng, _PICTURES, config.image_size, config.in_channels, white)
    more: Array = pictures
    if golden.dtype != np.uint8:
        more = standardized(pictures) if spec is None else normalize(pictures, spec)
    return np.concatenate([golden, more])
