"""Instruction sets of the library: which there are, and which one a process takes."""

import re

import numpy as np
import pytest
from sketch import Sketch

from levit.errors import ConfigError
from levit.native.engine import Engine
from levit.native.library import load_library
from levit.runtime.cpus import is_x86

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def library():
    return load_library()


def test_those_that_this_cpu_has(library):
    count = library.functions.levit_isa_count()
    names = [library.functions.levit_isa_name(number).decode() for number in range(count)]
    x86 = ["amx", "avx512bf16", "avx512vnni", "avx512", "avxvnni", "avx2", "portable"]
    assert names == (x86 if is_x86() else ["bf16", "dotprod", "neon"])
    usable = [bool(library.functions.levit_isa_usable(number)) for number in range(count)]
    assert library.isas == tuple(n for n, here in zip(names, usable, strict=True) if here)
    assert [library.number(name) for name in names] == list(range(count))


def test_numbers_that_each_multiplies(library):
    for name in library.isas:
        found = [library.multiplies(name, dtype) for dtype in ("float32", "bfloat16", "uint8")]
        assert found == [True, name in ("amx", "avx512bf16", "bf16"), True], name


@pytest.fixture
def program():
    sketch = Sketch.of_tokens((1, 3), 2)
    sketch.output(sketch.linear(0, np.eye(2)))
    program, arrays = sketch.build()
    return sketch, lambda: Engine(program, arrays.__getitem__, threads=1)


def test_variable_chooses(library, program, every_isa, monkeypatch):
    sketch, open_engine = program
    tokens = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    monkeypatch.setenv("LEVIT_NATIVE_ISA", every_isa)
    engine = open_engine()
    assert engine.isa == library.chosen_isa() == every_isa
    np.testing.assert_array_equal(engine.run(sketch.pictures(tokens))["0"], tokens)


def test_without_it_the_best_is_taken(library, program, monkeypatch):
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("LEVIT_NATIVE_ISA", raising=False)
        else:
            monkeypatch.setenv("LEVIT_NATIVE_ISA", value)
        assert program[1]().isa == library.chosen_isa() == library.isas[0]


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "avx2 ", "neon" if is_x86() else "avx2"])
def test_others_are_refused(library, program, name, monkeypatch):
    monkeypatch.setenv("LEVIT_NATIVE_ISA", name)
    known = re.escape(", ".join(library.isas))
    with pytest.raises(ConfigError, match=f"^LEVIT_NATIVE_ISA={name}: .*there are: {known}"):
        program[1]()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_every_peak_is_one(library, every_isa, dtype):
    # A tenth of the slowest CPU that runs this, and ten times the fastest.
    if library.multiplies(every_isa, dtype):
        assert 1e8 < library.peak(every_isa, 0.01, dtype) < 1e14
