"""``--target auto``: what is tried, what is kept, and what the manifest says of it."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from levit import Predictor
from levit.artifact import MANIFEST_FILE
from levit.errors import ArtifactError, CalibrationError, ConfigError, ExportError
from levit.export import ExportOptions, auto, export, prepare, timing
from levit.export.quantization import compiler
from levit.export.targets import TARGETS
from levit.models.registry import digits_folder
from levit.pictures import preparation
from levit.runtime.backends import BACKENDS
from levit.runtime.cpus import cpu_features, cpu_precisions


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six pictures of each digit."""
    folder = tmp_path_factory.mktemp("photos") / "sixty"
    for place in sorted((digits_folder() / "images").iterdir()):
        (folder / place.name).mkdir(parents=True)
        for path in sorted(place.iterdir())[:6]:
            shutil.copy(path, folder / place.name)
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Turns that are too short to mean anything: what is tested is not the speed."""
    monkeypatch.setattr(timing, "_TURN_S", 0.002)
    monkeypatch.setattr(timing, "_ROUNDS", 3)


def settings(photos, tmp_path):
    return dict(
        model="levit_digits",
        target="auto",
        calibration=photos,
        eval=photos,
        output=tmp_path / "out",
    )


def tried_of(folder):
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    return manifest, manifest["verification"]["tried"]


@pytest.mark.slow
def test_the_fastest_is_kept_and_all_are_told(photos, tmp_path):
    artifact = export(ExportOptions(**settings(photos, tmp_path), max_drop=20))
    manifest, tried = tried_of(tmp_path / "out")
    found = {(c["target"], c["precision"], c["form"]) for c in tried["candidates"]}
    for target in ("onnx", "openvino"):
        for form in ("tokens", "channels first"):
            assert (target, "fp32", form) in found
        assert [form for t, p, form in found if (t, p) == (target, "int8")] == ["tokens"]
    standard = [c for c in tried["candidates"] if c["dialect"] == "standard"]
    assert [(c["target"], c["precision"], c["form"]) for c in standard] == [
        ("onnx", "fp32", "tokens")
    ]
    has_bf16 = ("openvino", "bf16", "tokens") in found
    assert has_bf16 == bool(cpu_precisions(cpu_features())["bf16"])
    timed = [c for c in tried["candidates"] if c["latency_ms"] is not None]
    (kept,) = [c for c in timed if c["verdict"] == "kept"]
    assert kept["ratio"] == max(c["ratio"] for c in timed)
    assert (manifest["target"], manifest["precision"]) == (kept["target"], kept["precision"])
    with Predictor(artifact.path) as predictor:
        assert predictor.check().passed


def test_without_pictures_nothing_below_fp32_is_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact = export(ExportOptions(model="levit_digits", target="auto", batch=2))
    _, tried = tried_of(artifact.path)
    assert {c["precision"] for c in tried["candidates"]} == {"fp32"}
    assert {c["batch"] for c in tried["candidates"]} == {2, None}
    native = any(c["target"] == "native" for c in tried["candidates"])
    assert native == (BACKENDS["native"].obstacle("cpu") is None)
    assert artifact.path.name in {
        f"levit_digits-{target}-fp32" for target in ("onnx", "openvino", "native")
    }
    x = np.zeros((2, 3, 96, 96), np.float32)
    with Predictor(artifact.path) as predictor:
        assert predictor.forward(x)["logits"].shape == (2, 10)


def test_what_breaks_the_contract_is_out_and_says_why(photos, tmp_path):
    """Of sixty pictures nothing can be told at half a point: only fp32 is left."""
    export(ExportOptions(**settings(photos, tmp_path), max_drop=0.5))
    manifest, tried = tried_of(tmp_path / "out")
    assert manifest["precision"] == "fp32"
    refused = [c for c in tried["candidates"] if c["precision"] == "int8"]
    assert refused
    assert all("cannot tell" in c["verdict"] and c["latency_ms"] is None for c in refused)


@pytest.mark.slow
def test_force_replaces_the_folder_and_not_the_contract(photos, tmp_path):
    export(ExportOptions(model="levit_digits", target="auto", output=tmp_path / "out"))
    export(ExportOptions(**settings(photos, tmp_path), max_drop=0.5, force=True))
    manifest, tried = tried_of(tmp_path / "out")
    assert manifest["precision"] == "fp32"
    assert all(
        "cannot tell" in c["verdict"] for c in tried["candidates"] if c["precision"] == "int8"
    )


@pytest.mark.slow
def test_a_family_without_a_grid_has_no_form_to_choose(tmp_path):
    export(
        ExportOptions(
            model="deit_tiny_patch16_224",
            random_weights=0,
            target="auto",
            image_size=32,
            output=tmp_path / "out",
        )
    )
    _, tried = tried_of(tmp_path / "out")
    found = {(c["target"], c["form"], c["dialect"]) for c in tried["candidates"]}
    assert found - {("native", "tokens", "own")} == {
        ("onnx", "tokens", "own"),
        ("onnx", "tokens", "standard"),
        ("openvino", "tokens", "own"),
    }


def test_where_nothing_can_be_written_the_first_reason_is_told(tmp_path, monkeypatch):
    graphs = {name: TARGETS[name] for name in ("onnx", "openvino")}  # native has no opset
    monkeypatch.setattr(auto, "TARGETS", graphs)
    with pytest.raises(ExportError, match="opset must be"):
        export(ExportOptions(model="levit_digits", target="auto", opset=3, output=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_nothing_here_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "TARGETS", {})
    with pytest.raises(ExportError, match="no target runs"):
        export(ExportOptions(model="levit_digits", target="auto", output=tmp_path / "out"))


@pytest.mark.parametrize("name", ["calibration", "eval"])
def test_pictures_that_are_not_there_are_nobodys_verdict(tmp_path, name):
    options = {"model": "levit_digits", "target": "auto", "output": tmp_path / "out"}
    with pytest.raises(CalibrationError, match="no such folder"):
        export(ExportOptions(**options, **{name: tmp_path / "nowhere"}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"dump_passes": "x"}, "for one target"),
        ({"calibration": "x", "verify": "none"}, "leave out --verify none"),
        ({"precision": "fp16", "calibration": "x"}, "is for precision 'int8'"),
    ],
)
def test_what_auto_cannot_do_is_said_first(words, said):
    with pytest.raises(ConfigError, match=said):
        ExportOptions(model="levit_digits", target="auto", **words)


def test_the_folder_that_it_may_choose_must_be_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "levit_digits-openvino-fp32").mkdir()
    with pytest.raises(ArtifactError, match="already exists"):
        export(ExportOptions(model="levit_digits", target="auto"))


def test_an_existing_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="already exists"):
        export(ExportOptions(model="levit_digits", target="auto", output=tmp_path / "out"))


def test_turns_are_taken_in_rounds():
    calls = []
    contenders = [lambda name=name: calls.append(name) for name in "ab"]
    seconds = timing.time_in_turns(contenders)
    assert seconds.shape == (3, 2)
    assert (seconds >= 0).all()
    assert set(calls) == {"a", "b"}


def test_ratios_are_taken_inside_rounds(tmp_path, monkeypatch):
    """A machine that is slower in one round is so for all of that round."""
    seconds = np.array([[2.0, 1.0], [20.0, 10.0], [2.0, 1.0]])
    monkeypatch.setattr(auto, "time_in_turns", lambda calls: seconds)

    class Opened:
        def __init__(self, *_, **__):
            spec = SimpleNamespace(shape=("batch", 3, 8, 8), dtype="float32")
            self.manifest = SimpleNamespace(inputs=(spec,))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def forward(self, batch):
            return batch

    monkeypatch.setattr(auto, "Predictor", Opened)
    opened = SimpleNamespace(manifest=SimpleNamespace(target="onnx"))
    monkeypatch.setattr(auto, "open_artifact", lambda folder, verify_hashes: opened)
    one = auto.Tried(target="onnx", precision="fp32", batch=None, form="tokens")
    out = auto.Tried(target="onnx", precision="int8", batch=None, form="tokens", verdict="refused")
    tried, best = auto._timed([one, out, one], [tmp_path / "0", tmp_path / "1"], ExportOptions())
    assert best == tmp_path / "1"
    assert [t.verdict for t in tried] == ["slower", "refused", "kept"]
    assert [t.ratio for t in tried] == [1.0, None, 2.0]


def test_what_candidates_share_is_made_once(photos, tmp_path, monkeypatch):
    """The checkpoint, the golden answers, the calibration, and int8 rounding of equal integers."""
    made = Counter()

    def counted(place, name):
        function = getattr(place, name)

        def count(*arguments, **options):
            made[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(place, name, count)

    counted(prepare, "load_source")
    counted(prepare, "golden_cases")
    counted(prepare, "run_passes")
    counted(compiler, "quantize")
    steps, opened = [], []
    load_image = preparation.load_image
    monkeypatch.setattr(
        preparation,
        "load_image",
        lambda image, **options: (opened.append(image), load_image(image, **options))[1],
    )
    export(
        ExportOptions(**settings(photos, tmp_path), max_drop=20),
        progress=lambda step, done=0, total=0: steps.append((step, done, total)),
    )
    _, tried = tried_of(tmp_path / "out")
    integers = {c["target"] for c in tried["candidates"] if c["precision"] == "int8"}
    assert {"onnx", "openvino"} <= integers
    assert made["load_source"] == made["golden_cases"] == 1
    assert made["run_passes"] == 2  # float32 folds the normalisation of pixels too
    decoded = Counter(image for image in opened if isinstance(image, Path))
    assert (len(decoded), max(decoded.values())) == (60, 1)
    # Rounded well once; in the quick way, twice, where equalising is tried.
    assert made["quantize"] in (1, 3)
    count = len(tried["candidates"])
    builds = [step for step, done, total in steps if total == count and step.endswith("tokens")]
    assert builds[0] == f"building 1 of {count}: onnx fp32, tokens"
    counts = [(done, total) for step, done, total in steps if step.endswith(": calibrating")]
    assert counts == [(done, 60) for done in range(61)]
