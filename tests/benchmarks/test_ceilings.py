import importlib.util
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from levit.benchmarks.engines import ENGINES, Job, ceiling
from levit.benchmarks.engines.ceiling import (
    MACS,
    SIDE,
    executed_kernel,
    onnx_product,
    openvino_product,
    operands,
    reference,
)
from levit.benchmarks.engines.registers import open_turn
from levit.benchmarks.record import REGISTERS
from levit.benchmarks.worker import Slot
from levit.errors import BackendUnavailableError
from levit.native.library import load_library
from levit.runtime.openvino_module import openvino_core

CEILINGS = {
    name: engine
    for name, engine in ENGINES.items()
    if engine.kind == "ceiling" and engine.models != REGISTERS
}
# Largest difference over the largest value: an exact sum of integers, and roundings of inputs
# (and of PyTorch's output) to 8 bits of mantissa.
TOLERANCE = {"fp32": 5e-6, "bf16": 1e-2, "int8": 0}


def job(precision):
    return Job(
        model="matmul",
        precision=precision,
        batch=1,
        threads=1,
        device="cpu",
        image_size=(224, 224),
        files=Path(),
    )


def marked(name, *values):
    needs_torch = "torch" in CEILINGS[name].needs
    return pytest.param(name, *values, marks=[pytest.mark.peers] if needs_torch else [])


def engine(name):
    return ENGINES[name].load()


@pytest.fixture
def one_thread_of_torch():
    """PyTorch's threads are the process's: put back what a runner has set."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "precision"), [marked(n, p) for n in CEILINGS for p in CEILINGS[n].precisions]
)
def test_the_product_is_right(name, precision, one_thread_of_torch):
    opened = engine(name)
    try:
        run = opened.open_runner(job(precision))
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    expected = reference(precision)
    for _ in range(2):  # what is bound once must not be worn by a call
        rows = run(np.zeros((1, 3, 2, 2), np.float32))
        assert rows.dtype == np.float32
        assert rows.shape == expected.shape == (8, SIDE)
        error = np.abs(rows - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE[precision]


@pytest.mark.peers
def test_bf16_is_not_float32_under_another_name(one_thread_of_torch):
    run = engine("ceiling-torch").open_runner(job("bf16"))
    expected = reference("bf16")
    error = np.abs(run(np.zeros(0, np.float32)) - expected).max() / np.abs(expected).max()
    assert error > 1e-4


def test_runners_do_not_answer_from_their_argument(one_thread_of_torch):
    run = engine("ceiling-onnxruntime").open_runner(job("fp32"))
    ones, zeros = (run(make((1, 3, 4, 4), np.float32)) for make in (np.ones, np.zeros))
    assert np.array_equal(ones, zeros)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnxruntime_runs_what_the_precision_says(precision):
    model = onnx.load_from_string(onnx_product(precision))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == [
        {"fp32": "MatMul", "int8": "MatMulInteger"}[precision]
    ]
    assert [tensor.name for tensor in model.graph.initializer] == ["right"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_executes_the_precision(precision):
    opened = engine("ceiling-openvino")

    hint = "bf16" if precision == "bf16" else "f32"
    compiled = openvino_core().compile_model(
        openvino_product(precision), "CPU", {"INFERENCE_PRECISION_HINT": hint}
    )
    executed, kernel = executed_kernel(compiled)
    if executed in {"fp32": ("f32",), "bf16": ("bf16",), "int8": ("u8", "i8")}[precision]:
        assert kernel.lower().endswith({"fp32": "f32", "bf16": "bf16", "int8": "i8"}[precision])
        opened.open_runner(job(precision))
        return
    # A CPU without the instructions: what runs instead is said, and not measured.
    with pytest.raises(BackendUnavailableError, match=f"multiplies in {executed} "):
        opened.open_runner(job(precision))


def test_openvino_in_another_precision_is_refused(monkeypatch):
    """A float32 graph must not pass as int8: what OpenVINO does where it has no int8 kernel."""
    opened = engine("ceiling-openvino")
    plain = openvino_product("fp32")
    monkeypatch.setattr(ceiling, "openvino_product", lambda precision: plain)
    with pytest.raises(BackendUnavailableError, match=r"multiplies in f32 .* not in int8"):
        opened.open_runner(job("int8"))


def test_operands_do_not_saturate_two_int8_products():
    left, right = operands("int8")
    assert (left.dtype, right.dtype) == (np.uint8, np.int8)
    assert int(left.max()) * int(np.abs(right.astype(int)).max()) * 2 < 2**15
    assert left.max() <= 127  # PyTorch takes them as int8
    assert left.shape[0] * left.shape[1] * right.shape[1] == MACS


@pytest.fixture
def native():
    try:
        return load_library()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_register_peak_is_that_of_all_threads_at_once(native, threads, monkeypatch):
    running, most = [], []

    def peak(self, isa, seconds, dtype):
        running.append(isa)
        found = measured(self, isa, seconds, dtype)
        most.append(len(running))
        running.pop()
        return found

    measured = type(native).peak
    monkeypatch.setattr(type(native), "peak", peak)
    elapsed = open_turn(replace(job("fp32"), threads=threads))(0.05)
    assert max(most) == threads
    # Between a multiply-add of one lane a cycle and all that is built.
    assert 1e9 < 2 * MACS / elapsed * 1e9 < threads * 2e12


def test_a_ceiling_that_measures_itself_is_one_call_of_its_work(native):
    request = {"code": "levit.benchmarks.engines.registers", "streams": 1, "check": True}
    request["job"] = {**asdict(job("fp32")), "files": ""}
    slot = Slot(request)
    turn = slot.turn(0.01)
    slot.close()
    assert turn["values"] == [turn["elapsed_ns"]]
    assert turn["elapsed_ns"] > 0
    assert (slot.error, slot.wrong) == (None, "")
