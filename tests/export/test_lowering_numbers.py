"""Programs in bytes and bfloat16: the same network on every instruction set, any layer kept."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from levit.export.grids import Quantization, Scheme
from levit.export.lowering import lower
from levit.export.lowering.numbers import BFLOAT16, with_numbers
from levit.export.passes import run_passes
from levit.export.quantization.compiler import Quantizer
from levit.export.quantization.pictures import Pictures
from levit.export.quantization.quantize import mixed
from levit.export.quantization.reference import QuantizedOps
from levit.export.quantization.sensitivity import signal_to_noise
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.native.check import check
from levit.native.engine import Engine
from levit.native.interpreter import interpret
from levit.native.library import load_library
from levit.native.program import FLOAT32, Conv, Linear, Project

STATISTICS = ((0.41, 0.5, 0.63), (0.2, 0.25, 0.3))


def pictures_for(model, count, seed):
    config = model.config
    rng = np.random.default_rng(seed)
    pictures = smooth_pictures(rng, count, config.image_size, config.in_channels)
    return pictures if model.plan.pixels is not None else standardized(pictures)


@pytest.fixture(scope="module")
def attempt_of(make_small):
    """(name, pixels) → (the folded model, its first attempt at int8)."""
    made = {}

    def make(name="tiny", pixels=None):
        if (name, pixels) not in made:
            # Features are all of integers; heads add up in an order of their CPU's.
            model = make_small(name).with_plan(pixels=pixels, outputs=("logits", "features"))
            model = run_passes(model)[-1].model.with_plan(channels_first=False)
            quantizer = Quantizer(Pictures(origin="photos", items=pictures_for(model, 16, 1)))
            attempts = quantizer.attempts(model, Scheme(), integer_attention=True, keep_first=False)
            made[name, pixels] = model, next(iter(attempts))
        return made[name, pixels]

    return make


def typed(model, floats, quantization):
    """(program, arrays as they are read from a file), which `check` has passed."""
    lowered = with_numbers(lower(model), floats, quantization)
    check(lowered.program, lowered.program.arrays)
    arrays = {
        name: array if array.dtype in (np.int8, np.int32, np.uint16) else array.astype(np.float32)
        for name, array in lowered.arrays.items()
    }
    return lowered.program, {name: np.ascontiguousarray(a) for name, a in arrays.items()}


def engines(program, arrays):
    """An engine on each instruction set of this CPU, by its name."""
    return {
        isa: Engine(program, arrays.__getitem__, threads=2, isa=isa) for isa in load_library().isas
    }


@pytest.mark.parametrize("pixels", [None, STATISTICS])
def test_integers_are_those_of_the_reference(attempt_of, pixels):
    """But for what float32 rounds to the other of two integers: no more than they cost."""
    model, attempt = attempt_of("tiny", pixels)
    program, arrays = typed(attempt.model, FLOAT32, attempt.quantization)
    x = pictures_for(model, 12, 2)
    exact = model.forward(NumpyOps(), x)["logits"]
    reference = attempt.model.forward(QuantizedOps(attempt.quantization), x)["logits"]
    found = interpret(program, arrays, x)["logits"]
    cost = signal_to_noise(exact, reference)
    assert cost > 12
    assert signal_to_noise(exact, found) > cost - 1.5
    assert signal_to_noise(reference, found) > cost - 1.5


@pytest.mark.native
@pytest.mark.parametrize("name", ["tiny", "one_stage"])
def test_every_instruction_set_gives_the_same_integers(attempt_of, name):
    """From pixels to features all is integers: the interpreter's, too."""
    _, attempt = attempt_of(name, STATISTICS)
    program, arrays = typed(attempt.model, FLOAT32, attempt.quantization)
    x = pictures_for(attempt.model, 5, 3)
    expected = interpret(program, arrays, x, np.float32)
    for isa, engine in engines(program, arrays).items():
        found = engine.run(x)
        np.testing.assert_array_equal(found["features"], expected["features"], err_msg=isa)
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4, err_msg=isa)


@pytest.mark.native
def test_what_stays_float32_has_the_same_sums_where_multiply_adds_are_fused(attempt_of):
    """The first convolution of float32 pictures and the heads, down to the last bit of logits."""
    _, attempt = attempt_of()
    program, arrays = typed(attempt.model, FLOAT32, attempt.quantization)
    x = pictures_for(attempt.model, 5, 3)
    found = {
        isa: engine.run(x)["logits"]
        for isa, engine in engines(program, arrays).items()
        if isa != "portable"
    }
    first = next(iter(found.values()), None)
    for isa, logits in found.items():
        np.testing.assert_array_equal(logits, first, err_msg=isa)


@pytest.mark.native
def test_layers_that_are_kept_stay_in_floating_point(attempt_of, rng):
    """Whichever they are: parts of one projection too, and attentions beside integer layers."""
    model, attempt = attempt_of()
    whole = attempt.quantization
    x = pictures_for(model, 12, 4)
    exact = model.forward(NumpyOps(), x)["logits"]
    names = sorted(whole.names)
    first = "stages.0.blocks.0.attn"
    chosen = [
        [first], [f"{first}.q"], [f"{first}.q", f"{first}.v"], [f"{first}.proj"], ["stem.0"],
        *(list(rng.choice(names, size, replace=False)) for size in (5, 20, len(names) - 3)),
        names,
    ]  # fmt: skip
    for kept in chosen:
        quantization = whole.without(kept)
        changed = mixed(model, attempt.model, kept)
        reference = changed.forward(QuantizedOps(quantization), x)["logits"]
        for floats in (FLOAT32, BFLOAT16):
            program, arrays = typed(changed, floats, quantization)
            integers = {name for name, spec in program.arrays.items() if spec.dtype == "int8"}
            assert integers == {f"{name}.weight" for name in quantization.layers}
            bound = signal_to_noise(exact, reference) if quantization.layers else 50
            found = Engine(program, arrays.__getitem__, threads=1).run(x)["logits"]
            least = min(bound, 30) if floats == BFLOAT16 else bound
            assert signal_to_noise(exact, found) > least - 6, (kept, floats)


@pytest.mark.native
def test_bfloat16_is_near_and_half_the_size(make_small):
    model = run_passes(make_small("tiny"))[-1].model.with_plan(channels_first=False)
    x = pictures_for(model, 12, 5)
    program, arrays = typed(model, BFLOAT16, None)
    exact = model.forward(NumpyOps(), x)["logits"]
    for isa, engine in engines(program, arrays).items():
        assert signal_to_noise(exact, engine.run(x)["logits"]) > 30, isa
    floats, whole = typed(model, FLOAT32, None)
    layers = [n for n, spec in program.arrays.items() if spec.dtype == "bfloat16"]
    assert all(floats.arrays[name].shape == program.arrays[name].shape for name in layers)
    assert sum(arrays[name].nbytes for name in layers) * 2 == sum(whole[n].nbytes for n in layers)


def test_without_other_numbers_a_program_stays_as_it_is(make_small):
    model = run_passes(make_small("tiny"))[-1].model.with_plan(channels_first=False)
    lowered = lower(model)
    again = with_numbers(lowered, FLOAT32, None)
    assert [type(step) for step in again.program.steps] == [
        type(step) for step in lowered.program.steps
    ]
    x = pictures_for(model, 2, 6)
    np.testing.assert_array_equal(
        interpret(again.program, again.arrays, x)["logits"],
        interpret(lowered.program, lowered.arrays, x)["logits"],
    )


def test_only_the_residual_stream_and_the_ends_are_float32(attempt_of):
    _, attempt = attempt_of()
    program, _ = typed(attempt.model, FLOAT32, attempt.quantization)
    sums = {step.target for step in program.steps if getattr(step, "residual", None) is not None}
    read = {step.source for step in program.steps if isinstance(step, Conv | Linear | Project)}
    for number, buffer in enumerate(program.buffers):
        if number in read and number not in sums and buffer.rows > 1:
            assert buffer.numbers.dtype == "uint8", number
    kinds = Counter(buffer.numbers.dtype for buffer in program.buffers)
    assert kinds["uint8"] > 2 * kinds["float32"]


def test_a_quantization_of_nothing_is_none():
    assert Quantization.none().names == ()
    assert replace(Quantization.none(), layers={}).to_dict()["layers"] == []
