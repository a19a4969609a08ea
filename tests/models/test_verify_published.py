"""``scripts/verify_published.py`` against a hub that has the same names and other weights."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import COMMIT, environment_of, serve
from safetensors.numpy import save, save_file

from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES

pytestmark = [pytest.mark.peers, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify_published.py"
LEVIT = FAMILIES["levit"]


def run(server, folder, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, "--json", folder / "report.json", *arguments],
        env=environment_of(server, folder / "cache"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def report_of(folder):
    (result,) = json.loads((folder / "report.json").read_text())
    return result


def of_timm(state):
    config = {
        "architecture": "levit_128s",
        "num_classes": 1000,
        "pretrained_cfg": {
            "input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic",
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "num_classes": 1000,
            "classifier": ["head.linear", "head_dist.linear"], "first_conv": "stem.conv1.linear",
        },
    }  # fmt: skip
    return {"config.json": json.dumps(config).encode(), "model.safetensors": save(state)}


@pytest.fixture(scope="module")
def model():
    return random_model(LEVIT, LEVIT.variants["levit_128s"].config, 1)


def test_a_repository_of_timm_agrees(model, tmp_path):
    state = flatten(model, LEVIT.keymaps[0])
    name = "timm/levit_128s.fb_dist_in1k"
    with serve(name, of_timm(with_counters(state))) as server:
        ran = run(server, tmp_path, "--only", name)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = report_of(tmp_path)
    assert (result["name"], result["revision"], result["passed"]) == (name, COMMIT, True)
    assert result["preprocess_difference"] == 0
    assert result["relative_error"] < 1e-5


def with_counters(state):
    """As PyTorch saves them."""
    counters = {
        key.replace("running_mean", "num_batches_tracked"): np.array(1, np.int64)
        for key in state
        if key.endswith("running_mean")
    }
    return state | counters


def test_a_repository_of_transformers_agrees(model, tmp_path):
    import torch
    import transformers

    from levit.models.levit.networks import transformers_arguments

    network = transformers.LevitForImageClassificationWithTeacher(
        transformers.LevitConfig(**transformers_arguments(model.config))
    )
    keymap = next(k for k in LEVIT.keymaps if k.source == "transformers")
    state = {k: torch.from_numpy(v) for k, v in flatten(model, keymap).items()}
    network.load_state_dict(state, strict=False)
    saved = tmp_path / "saved"
    network.save_pretrained(saved)
    transformers.LevitImageProcessorPil().save_pretrained(saved)
    name = "facebook/levit-128S"
    with serve(name, {p.name: p.read_bytes() for p in saved.iterdir()}) as server:
        ran = run(server, tmp_path, "--only", name)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = report_of(tmp_path)
    assert (result["revision"], result["preprocess_difference"]) == (COMMIT, 0)


def test_what_cannot_be_fetched_is_said_and_fails(model, tmp_path):
    with serve("timm/another", {}) as server:
        ran = run(server, tmp_path, "--only", "timm/levit_128s")
    assert ran.returncode == 1
    result = report_of(tmp_path)
    assert not result["passed"]
    assert "the hub has no such repository" in result["problem"]


def test_a_difference_is_a_failure(model, tmp_path, monkeypatch):
    """The script's own comparison, fed with what a library with another opinion would say."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import verify_published as script

    save_file(flatten(model, LEVIT.keymaps[0]), tmp_path / "model.safetensors")
    pictures = script.photographs()

    def say(pixels=0.0, logits=0.0):
        def answers(checkpoint, pictures):
            tensor, single, exact = script.from_file(checkpoint, pictures)
            return tensor + np.float32(pixels), single, exact + logits * np.abs(exact).max()

        row = script.Published(
            name="mine", checkpoint=str(tmp_path / "model.safetensors"), answers=answers
        )
        return script.verify(row, pictures, tmp_path, tmp_path)

    # timm's checkpoint resizes to 248, the original's transform to 256: that is told apart.
    assert say().preprocess_difference > 0.1
    assert not say().passed
    assert say(logits=1e-4).relative_error > 5e-5
