"""The peers on real files of levit_128s, on others where architectures differ."""

import dataclasses
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from levit.benchmarks import peer_files
from levit.benchmarks.correctness import agreement_of, check
from levit.benchmarks.engines import ENGINES, Job
from levit.benchmarks.engines.exported_networks import compiled_openvino
from levit.benchmarks.engines.pillow_preprocessing import preprocessed
from levit.benchmarks.peer_files import FORMATS, prepare
from levit.errors import BackendUnavailableError, ConfigError, ExportError
from levit.export import ExportOptions, export
from levit.models.counting import count
from levit.models.pictures import smooth_pictures
from levit.models.registry import config_of
from levit.relative_error import relative_error

pytestmark = pytest.mark.peers

MODEL = "levit_128s"
PEERS = {
    name: engine
    for name, engine in ENGINES.items()
    if engine.kind == "peer" and "cpu" in engine.devices
}
# Compiling takes a minute on a busy machine.
SLOW = {"timm-compile"}
CHEAP = ("timm-eager", "naive-onnxruntime", "naive-openvino")


def chosen_by_openvino():
    """What OpenVINO computes in on this machine where nobody tells it."""
    from levit.runtime.openvino_module import openvino_core

    found = openvino_core().get_property("CPU", "INFERENCE_PRECISION_HINT")
    return {"f32": "fp32", "f16": "fp16"}.get(found.get_type_name(), found.get_type_name())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="module")
def files(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    prepare(MODEL, folder, formats=["onnx"])
    return folder


@pytest.fixture(scope="module")
def quantized(files):
    prepare(MODEL, files, formats=["openvino", "int8"])
    return files


@pytest.fixture(autouse=True)
def threads():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them wait for each other on a busy machine
    yield
    torch.set_num_threads(before)


@pytest.fixture
def jpeg(rng, tmp_path):
    (pixels,) = smooth_pictures(rng, 1, (301, 402))
    path = tmp_path / "picture.jpeg"
    Image.fromarray(pixels).save(path, quality=90)
    return path


def opened(name, request, **changes):
    """(engine, job): the code of an engine, and files that it needs."""
    engine = ENGINES[name]
    folder = request.getfixturevalue("quantized" if engine.runtime == "openvino" else "files")
    job = Job(
        model=MODEL, precision=engine.precisions[0], batch=2, threads=1,
        device=engine.devices[0], image_size=(224, 224), files=folder,
    )  # fmt: skip
    if name == "original-traced" and not os.environ.get("LEVIT_ORIGINAL_REPO"):
        pytest.skip("LEVIT_ORIGINAL_REPO names no clone of facebookresearch/LeViT")
    if name == "naive-openvino-default" and (chosen := chosen_by_openvino()) != job.precision:
        pytest.skip(f"OpenVINO as it comes computes in {chosen} here")
    return engine.load(), replace(job, **changes)


def marked(names):
    return [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in names]


# ---------------------------------------------------------------------------- files


def test_files_are_whole_and_hold_what_they_say(files):
    import onnx

    expected = {*FORMATS["weights"], *FORMATS["onnx"]}
    assert {file.name for file in files.iterdir()} >= expected
    assert not [file for file in files.iterdir() if file.name.startswith(".")]
    counts = json.loads((files / "counts.json").read_text())
    assert counts == {"macs": 304660832, "parameters": 7777058}
    config = json.loads((files / "preprocess.json").read_text())
    assert config["input_size"] == [3, 224, 224]
    (image,) = onnx.load(files / "naive.onnx", load_external_data=False).graph.input
    assert image.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_reference_tells_its_pictures_apart(files):
    with np.load(files / "reference.npz") as stored:
        inputs, logits = stored["input"], stored["logits"]
    assert (inputs.shape, inputs.dtype) == ((2, 3, 224, 224), np.float32)
    assert (logits.shape, logits.dtype) == ((2, 1000), np.float64)
    assert np.abs(logits[0] - logits[1]).max() >= 0.1 * np.abs(logits).max()


# Of every family, and the larger ones of a run.
@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        "deit_tiny_distilled_patch16_224",
        "convit_tiny",
        pytest.param("levit_conv_128s", marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224", marks=pytest.mark.slow),
        pytest.param("deit_small_patch16_224", marks=pytest.mark.nightly),
        pytest.param("convit_small", marks=pytest.mark.nightly),
    ],
)
def test_peers_have_the_weights_of_our_own_export(cache, model, tmp_path):
    import onnxruntime

    prepare(model, tmp_path, formats=["weights"])
    ours = export(ExportOptions(model=model, random_weights=0, output=tmp_path / "ours"))
    session = onnxruntime.InferenceSession(str(ours.payload), providers=["CPUExecutionProvider"])

    def run(x):
        return session.run(["logits"], {session.get_inputs()[0].name: x})[0]

    job = Job(
        model=model, precision="fp32", batch=2, threads=1, device="cpu", image_size=(224, 224),
        files=tmp_path,
    )  # fmt: skip
    error, reason = check(run, job)
    assert reason == ""
    assert error < 1e-5
    _, family, config = config_of(model)
    counts = count(family, config)
    assert json.loads((tmp_path / "counts.json").read_text()) == dataclasses.asdict(counts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "again"),
    [("deit_tiny_distilled_patch16_224", True), ("convit_tiny", False)],
    ids=["of stored weights", "at once"],
)
def test_naive_exports_of_transformers_answer_for_any_batch(model, again, tmp_path):
    if again:
        prepare(model, tmp_path, formats=["weights"])
        shutil.copytree(tmp_path, tmp_path / "store" / "weights")
        peer_files._make(model, tmp_path / "store", ["weights", "onnx"], (224, 224), 0)
        for file in (tmp_path / "store" / "onnx").iterdir():
            shutil.copy(file, tmp_path)
    else:
        prepare(model, tmp_path, formats=["onnx"], cache=False)
    for batch in (1, 8):
        job = Job(
            model=model, precision="fp32", batch=batch, threads=1, device="cpu",
            image_size=(224, 224), files=tmp_path,
        )  # fmt: skip
        error, reason = check(ENGINES["naive-onnxruntime"].load().open_runner(job), job)
        assert reason == ""
        assert error < 1e-5


def test_what_is_cached_needs_no_process(files, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    prepare(MODEL, tmp_path, formats=["onnx"])
    for name in ("naive.onnx", "naive.onnx.data", "weights.safetensors", "reference.npz"):
        assert (tmp_path / name).read_bytes() == (files / name).read_bytes()
    with pytest.raises(ExportError, match="it said nothing"):
        prepare(MODEL, tmp_path, formats=["onnx"], seed=1)
    with pytest.raises(ExportError, match="it said nothing"):
        prepare(MODEL, tmp_path, formats=["onnx"], cache=False)


def test_what_was_left_half_made_is_no_part(cache, tmp_path, monkeypatch):
    from levit.benchmarks.peer_files import cache_folder

    store = cache_folder("levit_256", (224, 224), 0)
    (store / ".weights-x1").mkdir(parents=True)
    (store / ".weights-x1" / "counts.json").write_text("{")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ExportError):
        prepare("levit_256", tmp_path, formats=["weights"])
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_half_made_goes_when_it_is_old(tmp_path):
    for name, age_s in (("old", 2 * 24 * 3600), ("new", 60)):
        folder = tmp_path / f".weights-{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age_s,) * 2)
    peer_files._make(MODEL, tmp_path, [], (224, 224), 0)
    assert [folder.name for folder in tmp_path.iterdir()] == [".weights-new"]


@pytest.mark.parametrize(
    ("model", "formats", "said"),
    [
        ("levit_129", ["weights"], "timm has no model 'levit_129'"),
        (MODEL, ["tflite"], "unknown format 'tflite'; there are weights, onnx, openvino, int8"),
    ],
)
def test_what_cannot_be_prepared_is_said_in_one_line(cache, tmp_path, model, formats, said):
    with pytest.raises((ConfigError, ExportError), match=said) as raised:
        prepare(model, tmp_path, formats=formats)
    assert "\n" not in str(raised.value)


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ExportError, match="XDG_CACHE_HOME"):
        prepare(MODEL, tmp_path, formats=["weights"])


def test_the_key_changes_with_what_decides_the_contents(monkeypatch):
    import importlib.metadata

    from levit.benchmarks.peer_files import cache_folder

    before = cache_folder(MODEL, (224, 224), 0)
    others = [cache_folder(MODEL, (240, 240), 0), cache_folder(MODEL, (224, 224), 1)]
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: "0.0" if n == "timm" else version(n)
    )
    others.append(cache_folder(MODEL, (224, 224), 0))
    assert len({before, *others}) == 4


def test_the_key_changes_with_how_the_family_draws_its_weights(monkeypatch):
    models = (MODEL, "convit_tiny", "deit_tiny_distilled_patch16_224", "resnet50")
    before = {model: peer_files.cache_folder(model, (224, 224), 0) for model in models}
    source = inspect.getsource

    def changed(by):
        def read(module):
            return source(module) + "#" * (module.__name__ == by)

        monkeypatch.setattr(inspect, "getsource", read)
        return [m for m in models if peer_files.cache_folder(m, (224, 224), 0) != before[m]]

    assert changed("levit.models.levit.random") == [MODEL]
    assert changed("levit.models.transformer.random") == list(models[1:3])
    assert changed("levit.benchmarks.peer_making") == list(models)
    assert changed("levit.benchmarks.peer_weights") == list(models)


# ---------------------------------------------------------------------------- engines


@pytest.mark.parametrize("name", marked(PEERS))
def test_every_peer_answers_as_the_reference(name, request):
    engine, job = opened(name, request)
    error, reason = check(engine.open_runner(job), job)
    assert reason == ""
    assert error < {"fp32": 1e-5, "bf16": 0.1, "int8": 1.0}[job.precision]


@pytest.mark.parametrize("name", CHEAP)
def test_answers_are_kept_when_the_next_ones_come(name, request):
    engine, job = opened(name, request, batch=1)
    run = engine.open_runner(job)
    with np.load(job.files / "reference.npz") as stored:
        first = run(stored["input"][:1])
        copied = first.copy()
        run(stored["input"][1:])
    np.testing.assert_array_equal(first, copied)


def test_a_wrong_network_is_caught_at_int8(request, rng):
    engine, job = opened("nncf-openvino", request)
    run = engine.open_runner(job)
    assert check(run, job)[1] == ""
    shuffle = rng.permutation(1000)
    wrong = {
        "shuffled classes": lambda x: run(x)[:, shuffle],
        "swapped pictures": lambda x: run(x[::-1].copy()),
        "one picture": lambda x: run(x[[0, 0]]),
        "black pictures": lambda x: run(np.full_like(x, -1.99)),
        "noise": lambda x: run(rng.standard_normal(x.shape, np.float32)),
    }
    assert [title for title, broken in wrong.items() if not check(broken, job)[1]] == []


def test_other_weights_are_caught_at_every_precision(files):
    import torch

    from levit.benchmarks.correctness import TOLERANCES, judge
    from levit.benchmarks.peer_weights import random_network

    with np.load(files / "reference.npz") as stored:
        inputs, logits = stored["input"], stored["logits"]
    with torch.no_grad():
        found = random_network(MODEL, (224, 224), 1)(torch.from_numpy(inputs)).numpy()
    assert agreement_of(found, logits) < 0.5
    assert all(judge(found, logits, precision) for precision in TOLERANCES)


@pytest.mark.parametrize("name", CHEAP)
def test_threads_and_batch_are_those_of_the_job(name, request):
    import torch

    engine, job = opened(name, request, threads=2)
    run = engine.open_runner(job)
    if name == "timm-eager":
        assert torch.get_num_threads() == 2
        return
    if name == "naive-openvino":
        compiled = compiled_openvino(job)
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
        assert compiled.get_property("NUM_STREAMS") == 1
    with pytest.raises(Exception, match=r"(?i)shape|dimension"):
        run(np.zeros((3, 3, 224, 224), np.float32))


@pytest.mark.parametrize("name", CHEAP)
def test_a_fresh_process_and_the_image_runner_find_the_same_class(name, request, jpeg):
    engine, job = opened(name, request)
    runner = engine.open_image_runner(job)
    index, stages = runner.staged(jpeg.read_bytes())
    assert runner.whole(jpeg.read_bytes()) == index
    assert list(stages) == ["decode", "resize", "network"]
    assert all(isinstance(ns, int) and ns > 0 for ns in stages.values())
    source = engine.script(job)
    done = subprocess.run(
        [sys.executable, "-c", source, str(jpeg)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) == index
    assert "levit" not in source.replace(str(job.files), "").replace(f"'{MODEL}'", "")
    if not name.startswith("timm"):
        assert "torch" not in source


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CHEAP)
def test_many_pictures_have_the_classes_of_each(name, request, threads, rng):
    engine, job = opened(name, request, threads=threads)
    job = replace(job, batch=2)
    pictures = []
    for pixels in smooth_pictures(rng, 4, (60, 80)):
        data = io.BytesIO()
        noise = rng.normal(0, 20, pixels.shape)
        noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(data, "JPEG")
        pictures.append(data.getvalue())
    one = engine.open_image_runner(job)
    line = engine.open_line(job)
    assert line.batch == 2
    assert list(line.run(pictures)) == [one.whole(data) for data in pictures]


@pytest.mark.slow
def test_a_convit_is_traced_in_a_fresh_process(cache, tmp_path, jpeg):
    from levit.benchmarks.engines.timm_networks import EAGER, TRACED

    prepare("convit_tiny", tmp_path, formats=["weights"])
    job = Job(
        model="convit_tiny", precision="fp32", batch=1, threads=1, device="cpu",
        image_size=(224, 224), files=tmp_path,
    )  # fmt: skip
    index = EAGER.open_image_runner(job).whole(jpeg.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", TRACED.script(job), str(jpeg)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split()[-1]) == index


@pytest.mark.parametrize("name", PEERS)
def test_every_script_is_python(name, request):
    engine, job = opened(name, request)
    compile(engine.script(job), name, "exec")


@pytest.mark.parametrize("size", [(301, 402), (402, 301), (224, 225), (90, 61), (500, 375)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95])
def test_pillow_and_numpy_prepare_as_timm(size, crop_pct, rng):
    from timm.data import create_transform

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    (pixels,) = smooth_pictures(rng, 1, size)
    image = Image.fromarray(pixels)
    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", crop_pct=crop_pct, mean=mean, std=std
    )
    found = preprocessed(image, 224, crop_pct, mean, std)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, transform(image)[None].numpy(), atol=1e-6)


def test_a_gpu_that_is_not_here_is_said(request):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    engine, job = opened("timm-eager", request, device="gpu", precision="fp16")
    with pytest.raises(BackendUnavailableError, match="no CUDA device"):
        engine.open_runner(job)


def test_openvino_in_another_precision_than_was_said_does_not_run(request):
    engine, job = opened("naive-openvino", request, precision="fp16")
    with pytest.raises(BackendUnavailableError, match="computes in"):
        engine.open_runner(job)


def test_the_authors_code_is_asked_for_by_name(request, monkeypatch, tmp_path):
    from levit.benchmarks.engines import original_traced

    job = Job(
        model=MODEL, precision="fp32", batch=1, threads=1, device="cpu", image_size=(224, 224),
        files=tmp_path,
    )  # fmt: skip
    monkeypatch.delenv(original_traced.VARIABLE, raising=False)
    with pytest.raises(BackendUnavailableError, match="LEVIT_ORIGINAL_REPO"):
        original_traced.ORIGINAL.open_runner(job)


# ---------------------------------------------------------------------------- networks


@pytest.mark.parametrize("model", [MODEL, "efficientnet_b0"])
def test_folding_leaves_no_norm_and_the_same_answers(model):
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from levit.benchmarks.engines.timm_networks import folded
    from levit.benchmarks.peer_weights import random_network

    net = random_network(model, (224, 224), 0)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32))
    with torch.no_grad():
        before = net(x).numpy()
        net = folded(net, x)
        after = net(x).numpy()
    assert not [m for m in net.modules() if isinstance(m, _BatchNorm)]
    assert relative_error(after, before.astype(np.float64)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("model", "edge"), [("repvit_m0_9", 224), ("fastvit_t8", 256)])
def test_networks_that_train_with_more_branches_are_exported_fused(model, edge, tmp_path):
    import onnx
    from torch import nn

    from levit.benchmarks.peer_making import load_network

    prepare(model, tmp_path, formats=["onnx"], image_size=(edge, edge), cache=False)
    unfused = [m for m in load_network(model, tmp_path).modules() if isinstance(m, nn.Conv2d)]
    nodes = onnx.load(tmp_path / "naive.onnx", load_external_data=False).graph.node
    assert sum(node.op_type == "Conv" for node in nodes) < len(unfused)
    job = Job(
        model=model, precision="fp32", batch=2, threads=1, device="cpu", image_size=(edge, edge),
        files=tmp_path,
    )  # fmt: skip
    error, reason = check(ENGINES["naive-onnxruntime"].load().open_runner(job), job)
    assert reason == ""
    assert error < 1e-5


@pytest.mark.parametrize(
    ("model", "edge"),
    [
        ("efficientnet_b0", 224),
        # Of today's architectures, every kind of layer.
        ("mobilenetv4_conv_small", 256),
        ("fastvit_t8", 256),
        ("repvit_m0_9", 224),
        ("efficientvit_m5", 224),
        ("efficientvit_b1", 224),
        ("hgnetv2_b0", 224),
        pytest.param("fastvit_sa12", 256, marks=pytest.mark.slow),
        pytest.param("efficientnet_b4", 380, marks=pytest.mark.slow),
        pytest.param("resnet50", 224, marks=pytest.mark.slow),
    ],
)
def test_other_architectures_are_conditioned_and_the_same_every_time(model, edge, rng):
    import torch

    from levit.benchmarks.peer_weights import conditioning, random_network
    from levit.models.pictures import standardized

    net, again = (random_network(model, (edge, edge), 3) for _ in range(2))
    pairs = zip(net.state_dict().items(), again.state_dict().values(), strict=True)
    assert [name for (name, one), other in pairs if not torch.equal(one, other)] == []
    inputs = torch.from_numpy(standardized(smooth_pictures(rng, 4, (edge, edge))))
    spread, error = conditioning(net, inputs)
    assert spread >= 0.1
    assert error < 1e-4


def test_a_parameter_without_a_rule_is_an_error():
    from levit.benchmarks.peer_weights import random_network

    with pytest.raises(ExportError, match="no rule draws random weights"):
        random_network("convnext_atto", (224, 224), 0)


def test_the_benchmark_imports_without_pytorch():
    source = (
        "import sys, pkgutil, importlib\n"
        "for name in ('torch', 'timm', 'openvino', 'nncf', 'onnxscript'):\n"
        "    sys.modules[name] = None\n"
        "import levit.benchmarks.engines as e\n"
        "for m in pkgutil.iter_modules(e.__path__, e.__name__ + '.'):\n"
        "    importlib.import_module(m.name)\n"
        "from levit.benchmarks import correctness, headline, peer_files, published\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)
