"""Every name of TensorRT's that we use exists in TensorRT 11.4 and in RTX, and takes what we pass.

The names are read from our own source, so that a new use is a new check.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from stub_library import stub_library

import levit
from levit.runtime.backends import BACKENDS

SOURCE = Path(levit.__file__).parent
FILES = (
    "export/targets/engine.py",
    "export/targets/tensorrt.py",
    "runtime/sessions/tensorrt.py",
    "runtime/tensorrt_log.py",
)

CUDA_FILES = (
    "runtime/cuda.py",
    "runtime/sessions/tensorrt.py",
)

# What our variables hold.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}

# Of RTX alone; used behind `ahead_of_time` or asked for with getattr.
ONLY_RTX = {
    "ComputeCapability",
    "ComputeCapability.__members__",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IExecutionContext.is_stream_capturable",
}
# Of the module of both, written in Python.
PLAIN = {"__version__", "__name__"}

LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
)

# What a module has: dotted name → docstring.
ASK = """
import ctypes, importlib, inspect, json, sys
module, *libraries = sys.argv[1:]
for library in libraries:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
trt = importlib.import_module(module)
found = {}
for name, value in vars(trt).items():
    found[name] = value.__doc__ if inspect.isclass(value) else ""
    if inspect.isclass(value):
        for inner in dir(value):
            found[f"{name}.{inner}"] = getattr(getattr(value, inner), "__doc__", "")
print(json.dumps({**found, "__version__": trt.__version__}))
if libraries:
    try:
        trt.Builder(trt.Logger())
    except TypeError:
        sys.exit(7)
"""


def ask(module, *libraries):
    command = [sys.executable, "-W", "error", "-c", ASK, module, *map(str, libraries)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def tensorrt_names(tmp_path_factory):
    """The names of TensorRT 11.4, over libraries that do nothing."""
    folder = tmp_path_factory.mktemp("stubs")
    for name in LIBRARIES:
        (folder / name).write_bytes(stub_library(name, FUNCTIONS))
    answer = ask("tensorrt_bindings", *(folder / name for name in LIBRARIES))
    # 7: it cannot pretend to build anything.
    assert answer.returncode == 7, answer.stderr
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def rtx_names():
    answer = ask("tensorrt_rtx_bindings")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def trees():
    return [ast.parse((SOURCE / name).read_text(encoding="utf-8")) for name in FILES]


def chain(node):
    """``a.b.c`` as a list of names; empty where it does not begin with a name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [*names, node.id][::-1] if isinstance(node, ast.Name) else []


def used():
    """Every name of the modules that our source uses, as ``Class.name`` or ``name``."""
    names = set()
    for tree in trees():
        for node in ast.walk(tree):
            parts = chain(node) if isinstance(node, ast.Attribute) else []
            if parts[:1] == ["trt"]:
                names.add(".".join(parts[1:3]))
            elif len(parts) > 1 and parts[0] in CLASSES:
                names.add(f"{CLASSES[parts[0]]}.{parts[1]}")
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "getattr"
            ):
                held, name = node.args[0], node.args[1]
                if isinstance(held, ast.Name) and held.id in CLASSES:
                    names.add(f"{CLASSES[held.id]}.{name.value}")
    return names - PLAIN


def overridden():
    """(class of theirs, our method) of what their code calls."""
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    if chain(base)[:1] == ["trt"]:
                        for inner in node.body:
                            if isinstance(inner, ast.FunctionDef) and inner.name != "__init__":
                                yield chain(base)[1], inner


def calls():
    """(name, how many positional arguments) of every call of a method of theirs."""
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                parts = chain(node.func)
                if len(parts) == 2 and parts[0] in CLASSES:
                    plain = not any(isinstance(a, ast.Starred) for a in node.args)
                    assert not node.keywords, f"{parts}: keywords are not checked"
                    yield f"{CLASSES[parts[0]]}.{parts[1]}", len(node.args) if plain else None


def test_the_source_is_really_read():
    names = used()
    assert {
        "Builder",
        "OnnxParser",
        "IProgressMonitor",
        "ILogger.ERROR",
        "BuilderFlag.TF32",
        "BuilderFlag.VERSION_COMPATIBLE",
        "HardwareCompatibilityLevel.AMPERE_PLUS",
        "ProfilingVerbosity.DETAILED",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "MemoryPoolType.WORKSPACE",
        "TensorIOMode.INPUT",
        "Builder.build_serialized_network",
        "IBuilderConfig.set_timing_cache",
        "IBuilderConfig.progress_monitor",
        "ParserError.node_name",
        "IOptimizationProfile.set_shape",
        "Runtime.engine_host_code_allowed",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.get_tensor_profile_shape",
        "IExecutionContext.execute_async_v3",
        *ONLY_RTX,
    } <= names
    assert sorted(method.name for _, method in overridden()) == [
        "log",
        "phase_finish",
        "phase_start",
        "step_complete",
        "told",
    ]
    assert len(list(calls())) > 20


@pytest.mark.trt_names
def test_tensorrt_has_every_name(tensorrt_names):
    assert tensorrt_names["__version__"].startswith("11.")
    assert sorted(used() - ONLY_RTX - set(tensorrt_names)) == []
    # What it has after all needs no exception.
    assert set(tensorrt_names) & ONLY_RTX == set()


@pytest.mark.trt_rtx
def test_rtx_has_every_name(rtx_names):
    assert sorted(used() - set(rtx_names)) == []


@pytest.mark.trt_names
@pytest.mark.trt_rtx
@pytest.mark.parametrize("module", ["tensorrt", "rtx"])
def test_methods_take_what_they_are_given(module, request):
    names = request.getfixturevalue(f"{module}_names")
    for name, count in calls():
        if count is None or name not in names:
            continue
        # Signatures are in pybind11's docstrings: `name(self: …, one: …, two: … = …) -> …`.
        signatures = [line for line in names[name].splitlines() if f"{name.split('.')[1]}(" in line]
        arities = [
            (line.count(": ") - line.count(" = ") - 1, line.count(": ") - 1)
            for line in signatures
            if "self: " in line
        ]
        assert arities, f"{name}: no signature in {names[name]!r}"
        assert any(least <= count <= most for least, most in arities), (name, count, signatures)


@pytest.mark.trt_names
@pytest.mark.trt_rtx
@pytest.mark.parametrize("module", ["tensorrt", "rtx"])
def test_what_they_call_of_ours_takes_what_they_pass(module, request):
    names = request.getfixturevalue(f"{module}_names")
    for base, method in overridden():
        if f"{base}.{method.name}" not in names:
            assert method.name == "told"  # ours alone
            continue
        (signature,) = [
            line for line in names[f"{base}.{method.name}"].splitlines() if "self: " in line
        ]
        ours = [argument.arg for argument in method.args.args[1:]]
        assert [f"{name}: " in signature for name in ours] == [True] * len(ours), signature
        assert signature.count(": ") - 1 == len(ours), signature


@pytest.mark.trt_rtx
def test_cuda_python_has_every_name():
    from cuda.bindings import runtime

    names = set()
    for name in CUDA_FILES:
        for node in ast.walk(ast.parse((SOURCE / name).read_text(encoding="utf-8"))):
            parts = chain(node) if isinstance(node, ast.Attribute) else []
            if "api" in parts[:-1]:
                names.add(tuple(parts[parts.index("api") + 1 :]))
    assert len(names) > 15
    for parts in names:
        held = runtime
        for part in parts:
            held = getattr(held, part)


@pytest.mark.trt_names
def test_bindings_without_libraries_are_no_backend():
    # They import as something else than the package that holds them with their libraries.
    assert not BACKENDS["tensorrt"].installed
    assert ask("tensorrt_bindings").returncode == 1
