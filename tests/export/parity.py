"""What the comparisons with the sources' own libraries share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from levit.export.targets import find_target
from levit.export.write import write
from levit.runtime.backends import BACKENDS, SessionOptions, open_session


def relative_error(found, expected):
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def run_artifact(artifact, x):
    """Every output by name, of plain ONNX Runtime or of our own engine."""
    if artifact.manifest.target == "native":
        session = open_session(artifact, SessionOptions(threads=2))
        return session.run({"image": x})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(artifact.payload), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": x}), strict=True))


def deployments(prepared):
    """Artifacts of a LeViT for every target that is compared: ours where it has been compiled."""
    has_engine = BACKENDS["native"].obstacle("cpu") is None
    for target in ("onnx", *["native"] * has_engine):
        output = Path(prepared.options.output) / target
        yield write(
            prepared,
            find_target(target, "fp32"),
            replace(prepared.options, target=target, output=output),
        )
