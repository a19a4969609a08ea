"""Small checkpoints of each source, with outputs that the source's own code computed in float64."""

from pathlib import Path

import numpy as np
import pytest
from parity import run_artifact
from safetensors.numpy import load_file, save_file

from levit.export import ExportOptions, export
from levit.export.sources import load_source
from levit.models.ops import NumpyOps

CASES = Path(__file__).parent.parent / "data" / "cases"

# (checkpoint, source format, outputs of the source by our names)
BOTH_HEADS = {"logits": "logits", "logits_head": "logits_head", "logits_dist": "logits_dist"}
FEATURES = {"features": "features", "embedding": "embedding"}
TEACHER = {"logits": "logits", "logits_head": "cls_logits", "logits_dist": "distillation_logits"}
TABLE = {
    "facebookresearch_levit_tiny96_distilled.pth": ("original", {**FEATURES, **BOTH_HEADS}),
    "facebookresearch_levit_tiny96_plain.pth": ("original", {**FEATURES, "logits": "logits"}),
    "mmpretrain_levit_tiny96.pth": ("mmpretrain", {**FEATURES, "logits": "logits"}),
    "transformers_levit_tiny96_with_teacher": ("transformers", {**FEATURES, **TEACHER}),
    "transformers_levit_tiny96_with_teacher.pth": ("transformers", {**FEATURES, **TEACHER}),
}


def expected_of(name, names):
    with np.load(CASES / f"{name.removesuffix('.pth')}.npz", allow_pickle=False) as arrays:
        values = {ours: arrays[theirs] for ours, theirs in names.items()}
        x = arrays["x"]
    features = values["features"]
    if features.ndim == 4:  # mmpretrain gives (N, C, H, W), and (N, L, C) is the name's layout
        values["features"] = features.reshape(*features.shape[:2], -1).transpose(0, 2, 1)
    return x, values


def compare(checkpoint, x, expected, source):
    loaded = load_source(ExportOptions(checkpoint=checkpoint))
    assert loaded.origin["format"] == source
    model = loaded.model.with_plan(outputs=tuple(expected))
    found = model.forward(NumpyOps(), x.astype(np.float64))
    assert all(value.dtype == np.float64 for value in expected.values())
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert np.abs(found[name] - value).max() <= 1e-10 * np.abs(value).max(), name


@pytest.mark.parametrize("name", TABLE)
def test_the_reference_gives_the_sources_own_outputs(name):
    source, names = TABLE[name]
    compare(CASES / name, *expected_of(name, names), source)


def test_the_plain_transformers_case_with_the_bias_tables_of_its_outputs(tmp_path):
    """See the README beside the cases: its outputs were computed with another case's tables."""
    state = load_file(CASES / "transformers_levit_tiny96" / "model.safetensors")
    other = load_file(CASES / "transformers_levit_tiny96_with_teacher" / "model.safetensors")
    state |= {key: value for key, value in other.items() if key.endswith("attention_biases")}
    save_file(state, tmp_path / "model.safetensors")
    names = {**FEATURES, "logits": "logits"}
    x, expected = expected_of("transformers_levit_tiny96", names)
    compare(tmp_path / "model.safetensors", x, expected, "transformers")


@pytest.mark.peers
@pytest.mark.parametrize("form", ["", ".pth"])
def test_the_plain_transformers_case_is_what_transformers_makes_of_it(form):
    import torch
    import transformers

    folder = CASES / "transformers_levit_tiny96"
    network = transformers.LevitForImageClassification.from_pretrained(folder).eval().double()
    x, _ = expected_of("transformers_levit_tiny96", FEATURES)
    with torch.no_grad():
        hidden = network.levit(torch.from_numpy(x).double())
        expected = {
            "features": hidden.last_hidden_state.numpy(),
            "embedding": hidden.pooler_output.numpy(),
            "logits": network(torch.from_numpy(x).double()).logits.numpy(),
        }
    compare(CASES / f"transformers_levit_tiny96{form}", x, expected, "transformers")


@pytest.mark.parametrize("name", TABLE)
def test_the_artifact_gives_them_in_float32(name, tmp_path):
    source, names = TABLE[name]
    x, expected = expected_of(name, names)
    artifact = export(
        ExportOptions(checkpoint=CASES / name, outputs=tuple(names), output=tmp_path / "out")
    )
    assert artifact.manifest.source["format"] == source
    found = run_artifact(artifact, x)
    for output, value in expected.items():
        assert np.abs(found[output] - value).max() <= 1e-5 * np.abs(value).max(), output
