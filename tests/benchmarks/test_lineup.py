import importlib.util
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from levit.artifact import open_artifact, write_manifest
from levit.benchmarks import lineup as lineup_module
from levit.benchmarks.architectures import architecture
from levit.benchmarks.engines import ENGINES, Engine
from levit.benchmarks.lineup import COMPARED, HEADLINE, SIZES, ceilings, choose_lineup
from levit.benchmarks.protocols import PROTOCOLS
from levit.benchmarks.published import PUBLISHED, TODAY
from levit.errors import ArtifactError, BackendUnavailableError, ConfigError

DEFAULTS = dict(device="cpu", models=None, artifacts=(), engines=None, peers=False)


def choose(**settings):
    return choose_lineup(**{**DEFAULTS, **settings})


def test_by_default_the_five_sizes_through_every_engine_of_ours():
    contenders = choose().contenders
    assert {c.kind for c in contenders} == {"ours"}
    assert list(dict.fromkeys(c.model for c in contenders)) == list(SIZES)
    assert all(c.top1 for c in contenders)
    assert all(c.engine != "null" for c in contenders)


def test_by_default_each_engine_takes_part_at_its_fastest_precision(monkeypatch):
    def precisions(**settings):
        contenders = choose(models=["levit_128s"], **settings).contenders
        return {c.engine: c.precision for c in contenders}

    monkeypatch.setattr(lineup_module, "cpu_features", lambda: ("avx2", "avx512_bf16"))
    is_here = not ENGINES["levit-native"].missing()
    native = {"levit-native": "bf16"} if is_here else {}
    assert precisions() == {"levit-onnx": "fp32", "levit-openvino": "bf16", **native}
    monkeypatch.setattr(lineup_module, "cpu_features", lambda: ("avx2",))
    native = {"levit-native": "fp32"} if is_here else {}
    assert precisions() == {"levit-onnx": "fp32", "levit-openvino": "fp32", **native}
    assert precisions(quick=True) == {"levit-onnx": "fp32"}
    named = choose(models=["levit_128s"], engines=["levit-openvino"], quick=True).contenders
    assert [c.precision for c in named] == ["fp32", "bf16"]


@pytest.mark.peers
def test_with_peers_those_that_the_paper_compares_with():
    contenders = choose(peers=True).contenders
    assert list(dict.fromkeys(c.model for c in contenders)) == list(COMPARED)
    assert set(COMPARED) < set(PUBLISHED)
    assert not [name for name in COMPARED if "base" in name or "convit" in name]


@pytest.mark.peers
def test_the_headline_has_every_network_on_what_may_be_its_best_engine():
    contenders = choose(headline=True).contenders
    assert list(dict.fromkeys(c.model for c in contenders)) == list(HEADLINE)
    engines = {c.engine for c in contenders}
    assert {"naive-onnxruntime", "naive-openvino", "nncf-openvino", "levit-openvino"} <= engines
    assert not [c for c in contenders if c.engine.startswith("timm-")]
    precisions = {m: {c.precision for c in contenders if c.model == m} for m in HEADLINE}
    assert all(found == {"fp32", "bf16", "int8"} for found in precisions.values())
    sizes = {c.model: c.image_size for c in contenders}
    assert sizes["fastvit_t8"] == (256, 256)
    fewer = choose(headline=True, models=["levit_192", "efficientnet_b2"], precisions=["int8"])
    assert {c.model for c in fewer.contenders} == {"levit_192", "efficientnet_b2"}
    assert {c.precision for c in fewer.contenders} == {"int8"}
    named = choose(headline=True, models=["levit_192"], engines=["levit-onnx"])
    assert {c.engine for c in named.contenders} == {"levit-onnx"}


@pytest.mark.peers
def test_todays_networks_are_timms_with_weights_of_that_name():
    from timm.models import is_model_pretrained

    for model, published in TODAY.items():
        assert is_model_pretrained(f"{model}.{published.weights}"), model
        assert published.weights
        assert architecture(model) != "other"
    sizes = Counter(architecture(model) for model in TODAY)
    assert sizes.pop("efficientvit-m") == 1
    assert set(sizes) == {"mobilenetv4", "fastvit", "repvit", "efficientvit", "hgnetv2"}
    assert min(sizes.values()) >= 2


@pytest.mark.peers
@pytest.mark.parametrize(
    "model", ["deit_tiny_distilled_patch16_224", "deit_base_patch16_384", "convit_base"]
)
def test_every_family_has_our_engines_beside_the_peers(model):
    contenders = choose(models=[model], engines=["levit-onnx", "naive-onnxruntime"]).contenders
    assert [c.kind for c in contenders] == ["ours", "peer"]
    edge = int(model[-3:]) if model[-1].isdigit() else 224
    assert {c.image_size for c in contenders} == {(edge, edge)}


def test_names_are_understood_as_everywhere():
    contenders = choose(models=["LeViT-128S", "facebook/levit-256", "levit_digits"]).contenders
    models = list(dict.fromkeys(c.model for c in contenders))
    assert models == ["levit_128s", "levit_256", "levit_digits"]
    assert contenders[-1].image_size == (96, 96)


def test_who_enters_twice_gets_a_number():
    found = choose(models=["levit_128s", "levit_128s"]).contenders
    first, second = np.array_split([c.name for c in found], 2)
    assert [f"{name} #2" for name in first] == list(second)


def test_an_artifact_is_timed_with_its_own_weights(tiny_artifact):
    (contender,) = choose(artifacts=[tiny_artifact]).contenders
    assert contender.source == tiny_artifact
    assert contender.image_size == (96, 96)
    assert contender.precision == "fp32"
    both = choose(artifacts=[tiny_artifact], models=["levit_128s"]).contenders
    assert sum(c.source == tiny_artifact for c in both) == 1
    assert {c.model for c in both} == {contender.model, "levit_128s"}


def test_an_int8_artifact_takes_part_unasked_and_a_model_by_name(tiny_artifact, tmp_path):
    folder = shutil.copytree(tiny_artifact, tmp_path / "int8")
    manifest = open_artifact(folder).manifest
    write_manifest(folder, replace(manifest, precision="int8"))
    (contender,) = choose(artifacts=[folder]).contenders
    assert (contender.engine, contender.precision) == ("levit-onnx-int8", "int8")
    assert "int8" not in {c.precision for c in choose(models=["levit_128s"]).contenders}
    (named,) = choose(models=["levit_128s"], engines=["levit-openvino-int8"]).contenders
    assert named.artifact == "artifact-openvino-int8"


def test_a_run_can_be_of_one_precision():
    found = choose(models=["levit_128s"], engines=["levit-onnx", "levit-openvino"],
                   precisions=["fp32"]).contenders  # fmt: skip
    assert [(c.engine, c.precision) for c in found] == [
        ("levit-onnx", "fp32"), ("levit-openvino", "fp32")
    ]  # fmt: skip
    by_default = choose(models=["levit_128s"], precisions=["bf16"]).contenders
    assert {c.engine for c in by_default} - {"levit-native"} == {"levit-openvino"}


def test_the_register_peak_is_a_ceiling_where_the_library_loads(monkeypatch):
    def models(obstacle):
        engine = replace(ENGINES["ceiling-registers"], obstacle=lambda: obstacle)
        monkeypatch.setattr(lineup_module, "ENGINES", {**ENGINES, "ceiling-registers": engine})
        return {c.model for c in ceilings(choose(engines=["levit-onnx"]).contenders, "cpu")}

    assert models("") == {"matmul", "registers"}
    assert models("no library: build one") == {"matmul"}


def test_a_library_that_does_not_load_is_missing_with_its_reason(tmp_path, monkeypatch):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setenv("LEVIT_NATIVE_LIBRARY", str(broken))
    title = ENGINES["levit-native"].title
    assert "cannot be loaded" in choose().missing[title]
    assert "levit-native" not in {c.engine for c in choose().contenders}
    with pytest.raises(BackendUnavailableError, match="cannot be loaded"):
        choose(engines=["levit-native"])


def test_an_artifact_of_an_engine_that_is_not_here_says_so(tiny_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVIT_NATIVE_LIBRARY", "nowhere.so")
    folder = shutil.copytree(tiny_artifact, tmp_path / "native")
    write_manifest(folder, replace(open_artifact(folder).manifest, target="native"))
    with pytest.raises(BackendUnavailableError, match=r"native engine cannot run: .*loaded"):
        choose(artifacts=[folder])
    assert choose(artifacts=[tiny_artifact]).missing == {}  # which it does not need


def test_ceilings_are_those_of_the_precisions_that_take_part():
    found = ceilings(choose(engines=["levit-onnx"]).contenders, "cpu")
    assert {c.precision for c in found} == {"fp32"}
    both = ceilings(choose(engines=["levit-onnx", "levit-openvino"]).contenders, "cpu")
    assert {c.precision for c in both} == {"fp32", "bf16"}
    assert all(c.macs == 1024**3 for c in found)


@pytest.mark.parametrize(
    ("settings", "error", "line"),
    [
        (dict(models=["levit_129"]), ConfigError, "did you mean levit_128"),
        (dict(engines=["levit-onx"]), ConfigError, "unknown engine 'levit-onx'.*levit-onnx"),
        (
            dict(engines=["levit-onnx"], models=["resnet50"]),
            ConfigError,
            "no engine of this run takes resnet50",
        ),
        (dict(precisions=["fp8"]), ConfigError, "unknown precision 'fp8'; there are: fp32"),
        (
            dict(engines=["levit-onnx"], precisions=["bf16"]),
            ConfigError,
            "no engine of this run computes at bf16",
        ),
    ],
)
def test_what_cannot_be_is_one_line(settings, error, line):
    with pytest.raises(error, match=line):
        choose(**settings)


def test_a_folder_that_is_no_artifact_is_one_line(tmp_path):
    with pytest.raises(ArtifactError):
        choose(artifacts=[tmp_path])


@pytest.fixture
def lacking(monkeypatch):
    """An engine of ours whose backend is not installed, beside the others."""
    engine = Engine(
        title="levit → Nowhere",
        runtime="nowhere",
        kind="ours",
        precisions=("fp32",),
        devices=("cpu",),
        code="levit.benchmarks.engines.null",
        needs={"a_backend_that_nobody_has": "pip install nowhere"},
    )
    monkeypatch.setattr(lineup_module, "ENGINES", {**ENGINES, "levit-nowhere": engine})


def test_a_backend_that_is_not_installed_is_named(lacking):
    found = choose()
    assert found.missing["levit → Nowhere"] == "pip install nowhere"
    assert found.contenders  # the others run
    with pytest.raises(BackendUnavailableError, match="pip install nowhere"):
        choose(engines=["levit-nowhere"])


def test_without_onnx_artifacts_run_and_models_say_what_they_need(tiny_artifact, monkeypatch):
    found = importlib.util.find_spec

    def lacking(name, *rest):
        return None if name == "onnx" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", lacking)
    assert choose(artifacts=[tiny_artifact]).contenders
    with pytest.raises(BackendUnavailableError, match=r"levit\[export\].*--artifact"):
        choose()


def test_the_command_itself_needs_nothing_but_the_runtime():
    """On an edge box there is no onnx, and nobody wants to wait for PyTorch."""
    code = (
        "import sys, levit.commands.bench_command\n"
        "print(sorted({'onnx', 'torch', 'openvino', 'matplotlib', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_engine_says_where_it_is():
    for name, engine in ENGINES.items():
        assert importlib.util.find_spec(engine.code.partition(":")[0]), name
        assert engine.kind in ("ours", "peer", "ceiling")


def test_the_documents_know_every_engine_and_protocol():
    page = (Path(__file__).parents[2] / "docs" / "benchmarking.md").read_text(encoding="utf-8")
    for name in (*ENGINES, *PROTOCOLS):
        assert f"`{name}`" in page, name
