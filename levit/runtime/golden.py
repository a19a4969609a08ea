"""Golden cases: inputs and answers by which an artifact proves itself on any machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.artifact import GOLDEN_FILE, Manifest
from levit.errors import CorruptArtifactError, InputError, VerificationError
from levit.relative_error import errors_of

__all__ = ["GoldenReport", "compare_outputs", "run_golden"]

Forward = Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class GoldenReport:
    """Distance of this machine's answers from the reference.

    Attributes:
        cases: inputs compared.
        max_relative_error: max over outputs of max|difference| / max|reference|.
        max_abs_error: the largest difference of any value.
        top1_agreement: fraction of cases with the reference's top-1; None without logits.
        tensor_error: largest difference of a tensor preprocessed here from the stored one;
            None where the artifact stores no image.
        tolerance: limit of ``max_relative_error``.
        tensor_tolerance: limit of ``tensor_error``: one grey level, by which Pillow's vectorised
            builds round otherwise.
    """

    cases: int
    max_relative_error: float
    max_abs_error: float
    top1_agreement: float | None
    tensor_error: float | None
    tolerance: float
    tensor_tolerance: float

    @property
    def passed(self) -> bool:
        """Within tolerance, with the same preprocessing.

        A first class counts where the reference is sure of it, by more than twice the tolerance
        times the largest value: to change that one, its logit or another must be off by more
        than the tolerance, so that the error says it already. What is nearer than that is a tie
        to this precision, and a change of it no fault.
        """
        return (
            self.max_relative_error <= self.tolerance
            and (self.tensor_error or 0.0) <= self.tensor_tolerance
        )

    def error(self, path: Path, machine: str) -> VerificationError:
        """Make the error of an artifact that does not prove itself on a class of machine."""
        return VerificationError(
            f"{path}: on this machine ({machine}) the golden cases are off by "
            f"{self.max_relative_error:.1e}, allowed is {self.tolerance:.1e}: "
            f"export again on this machine, or compare with: levit check"
        )


def compare_outputs(
    outputs: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]]
) -> tuple[float, float, float | None]:
    """Compare arrays by name: (max relative error, max absolute error, top-1 agreement or None).

    NaN anywhere counts as an infinite error; there is no agreement without logits.

    Args:
        outputs, reference: arrays by name, (N, …) each.
    """
    relative = absolute = 0.0
    for name, expected in reference.items():
        found = outputs.get(name)
        if found is None or found.shape != expected.shape:
            return np.inf, np.inf, 0.0
        by_scale, difference = errors_of(found, expected)
        if not np.isfinite(difference):
            return np.inf, np.inf, 0.0
        relative, absolute = max(relative, by_scale), max(absolute, difference)
    agreement = None
    if "logits" in reference:
        same = outputs["logits"].argmax(-1) == reference["logits"].argmax(-1)
        agreement = float(np.mean(same))
    return relative, absolute, agreement


def run_golden(
    manifest: Manifest, golden: Mapping[str, NDArray[Any]], forward: Forward
) -> GoldenReport:
    """Run the golden inputs through `forward` and compare.

    Raises:
        CorruptArtifactError: the golden file lacks an array, or holds no case.
    """
    try:
        batch = golden["input"]
        reference = {output.name: golden[f"output/{output.name}"] for output in manifest.outputs}
        tolerance = float(manifest.verification["tolerance"])
        count = sum(name.startswith("image/") for name in golden)
        images = [golden[f"image/{i}"] for i in range(count)]
        if len(batch) == 0:
            raise ValueError("no cases")
        if manifest.preprocess is not None and not images:
            raise ValueError("no images")
        for name, array in {"input": batch, **reference}.items():
            if array.dtype not in (np.float32, np.uint8):
                raise ValueError(f"{name} is {array.dtype}")
        taken = manifest.inputs[0]
        if batch.shape[1:] != taken.shape[1:] or batch.dtype != taken.dtype:
            raise ValueError(f"its input is {batch.shape} {batch.dtype}")
        logits: Any = reference.get("logits")
        ranked = logits is not None and np.isfinite(logits).all()
        if ranked and (golden["top5"][:, 0] != logits.argmax(-1)).any():
            raise ValueError("top5 is not that of the logits")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CorruptArtifactError(
            f"{GOLDEN_FILE} is incomplete ({error}); export again"
        ) from error
    relative, absolute, agreement = compare_outputs(forward(batch), reference)
    return GoldenReport(
        cases=len(batch),
        max_relative_error=relative,
        max_abs_error=absolute,
        top1_agreement=agreement,
        tensor_error=_tensor_error(manifest, images, batch),
        tolerance=tolerance,
        tensor_tolerance=_grey_level(manifest),
    )


def _grey_level(manifest: Manifest) -> float:
    """Bound the distance of two neighbouring pixel values in the tensor."""
    spec = manifest.preprocess
    if spec is None or manifest.inputs[0].dtype == "uint8":
        return 1.0
    return 1.001 / (spec.white * min(spec.std))


def _tensor_error(
    manifest: Manifest, images: list[NDArray[Any]], batch: NDArray[Any]
) -> float | None:
    spec = manifest.preprocess
    if spec is None or not images:
        return None
    from levit.pictures.preparation import to_tensor

    dtype = manifest.inputs[0].dtype
    try:
        tensors = np.stack([to_tensor(image.tobytes(), spec, dtype) for image in images])
    except (InputError, ValueError) as error:  # a picture of its own, not one of the caller's
        raise CorruptArtifactError(
            f"{GOLDEN_FILE} holds a picture that cannot be read ({error}); export again"
        ) from error
    stored = batch[: len(tensors)]
    if tensors.shape != stored.shape:
        raise CorruptArtifactError(
            f"{GOLDEN_FILE} holds images of {tensors.shape} beside inputs of {stored.shape}; "
            f"export again"
        )
    with np.errstate(invalid="ignore"):
        difference = tensors.astype(np.float64) - stored.astype(np.float64)
    return float(np.max(np.abs(difference), initial=0.0))
