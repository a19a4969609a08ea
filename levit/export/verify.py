"""Backend output against the float64 reference of the model as trained."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit.export.ranges import Taps
from levit.models.model import Model
from levit.models.ops import Array, NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.pictures.preparation import to_tensor
from levit.pictures.preprocess import PreprocessSpec
from levit.runtime.golden import compare_outputs

__all__ = [
    "TOLERANCES",
    "Golden",
    "Tolerance",
    "golden_cases",
    "prove_in_fp32",
    "tolerance_of",
]


@dataclass(frozen=True)
class Tolerance:
    """Difference that a backend may have from the reference, over the largest value."""

    value: float
    reason: str


# Measured on random weights of the five sizes, with every operation's result rounded to the type
# and sums in float32, as a GPU does it: figures in docs/decisions.md.
_SINGLE: Final = Tolerance(
    1e-4,
    "float32 rounding through thirty layers is 1e-6 to 1e-5 of the largest value, and another "
    "machine's kernels round otherwise; a wrong weight or table shows above 1e-2",
)
_HALF: Final = Tolerance(
    3e-2,
    "float16's eleven bits through thirty layers are 1e-3 to 6e-3 of the largest logit and up to "
    "1.4e-2 of the largest feature, and machines differ in what they add up in; that no weight "
    "is wrong is shown in float32",
)
_BFLOAT: Final = Tolerance(
    2e-1,
    "bfloat16's eight bits through thirty layers are 1e-2 to 3.3e-2 of the largest logit and up "
    "to 6.2e-2 of the largest feature, and machines differ in what they add up in; that no "
    "weight is wrong is shown in float32",
)

_INTEGER: Final = Tolerance(
    2e-1,
    "the same integers give the same products everywhere, but what is between them is rounded to "
    "float32 or bfloat16: a value near the middle of two integers goes to either, and a few layers "
    "further on the noise is another, as large as before. So it may be three times what integers "
    "cost these cases, if that is more; that no weight is wrong is shown in float32, and what "
    "integers cost is judged by the answers",
)
# A check that allows more shows nothing, and a manifest holds none.
_MOST: Final = 0.9

# By precision alone: a format adds no error of its own. (TF32, whose ten bits of mantissa are off
# by 1e-3, is switched off in engines.)
TOLERANCES: Final[Mapping[str, Tolerance]] = {
    "fp32": _SINGLE,
    "fp16": _HALF,
    "bf16": _BFLOAT,
    "int8": _INTEGER,
}

# Enough for a top-1 that can differ, few enough for a second's export of a large model.
_CASES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Inputs and reference outputs.

    Attributes:
        images: PNG files as bytes, one per input; empty where the model takes tensors only.
        inputs: the batch that the deployed model takes.
        outputs: float64, from the model as trained.
    """

    images: tuple[bytes, ...]
    inputs: Array
    outputs: Mapping[str, Array]

    @property
    def spread(self) -> float:
        """Variation of the first output between the cases, over its largest value.

        Near 0, a comparison shows nothing: an untrained LeViT gives the same to every picture.
        """
        first = next(iter(self.outputs.values()))
        largest = float(np.abs(first).max())
        return float(np.ptp(first, axis=0).max()) / largest if largest else 0.0

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The contents of ``golden.npz``."""
        arrays: dict[str, NDArray[Any]] = {
            f"image/{i}": np.frombuffer(image, np.uint8) for i, image in enumerate(self.images)
        }
        arrays["input"] = self.inputs
        for name, value in self.outputs.items():
            arrays[f"output/{name}"] = value.astype(np.float32)
        if "logits" in self.outputs:
            order = np.argsort(-arrays["output/logits"], axis=-1, kind="stable")
            arrays["top5"] = order[:, :5].astype(np.int64)
        return arrays


def golden_cases(model: Model, spec: PreprocessSpec | None) -> Golden:
    """Draw pictures, preprocess them as the artifact will, and evaluate the reference.

    Args:
        model: as trained, with the plan's inputs and outputs of the artifact.
        spec: None where the model takes tensors only.
    """
    config = model.config
    rng = np.random.default_rng(20210404)
    images: tuple[bytes, ...] = ()
    if spec is None:
        pictures = smooth_pictures(rng, _CASES, config.image_size, config.in_channels)
        inputs: Array = pictures if model.plan.pixels is not None else standardized(pictures)
    else:
        images = tuple(_png(picture) for picture in _photos(rng, config.image_size, spec))
        dtype = "float32" if model.plan.pixels is None else "uint8"
        inputs = np.stack([to_tensor(image, spec, dtype) for image in images])
    return Golden(images=images, inputs=inputs, outputs=model.forward(NumpyOps(), inputs))


def tolerance_of(precision: str, exact: Golden, stored: Golden) -> Tolerance:
    """The table's, or at int8 three times the cost of rounding to integers, if that is more.

    Args:
        exact: the reference's answers.
        stored: the artifact's, at int8 those of its own integers, exactly computed.
    """
    tolerance = TOLERANCES[precision]
    if stored is exact:
        return tolerance
    cost = cost_of_integers(exact, stored)
    return Tolerance(min(_MOST, max(tolerance.value, 3 * cost)), tolerance.reason)


def cost_of_integers(exact: Golden, stored: Golden) -> float:
    """Distance of the exact answers of an artifact's integers from the reference's.

    Returns:
        max|difference| / max|reference| over the outputs.
    """
    return compare_outputs(stored.outputs, exact.outputs)[0]


def prove_in_fp32(taps: Taps, golden: Golden) -> float:
    """The graph of fp16 or bf16, written in fp32 and run by ONNX Runtime here.

    At low precision a tolerance lets a wrong weight pass. So two things are shown one by one:
    here, that the graph is the right one; by the artifact itself, that its precision suffices.

    Args:
        taps: the fp32 graph of the model that is emitted.

    Returns:
        max|difference| / max|reference| over the outputs.
    """
    return compare_outputs(taps.forward(golden.inputs), golden.outputs)[0]


def _photos(
    rng: np.random.Generator, size: tuple[int, int], spec: PreprocessSpec
) -> list[NDArray[Any]]:
    """Landscape, portrait and enlarged, so that resizing and cropping have something to do."""
    height, width = size
    shapes = ((height, width * 5 // 4), (height * 4 // 3, width), (height // 2, width // 2))
    return [
        smooth_pictures(rng, 1, shape, spec.channels, spec.white)[0] for shape in shapes[:_CASES]
    ]


def _png(picture: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    if picture.shape[-1] == 1:
        picture = picture[..., 0]
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
