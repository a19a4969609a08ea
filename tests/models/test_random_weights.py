from dataclasses import replace

import numpy as np
import pytest

from levit.errors import ExportError
from levit.models import random_weights
from levit.models.checkpoint import StrictWeights
from levit.models.layers import BatchNorm, layers_of
from levit.models.model import Model
from levit.models.ops import NumpyOps
from levit.models.random_weights import conditioning, flatten, random_model


def keymap_of(model):
    return next(k for k in model.family.keymaps if k.conv == model.config.conv)


def test_a_seed_gives_the_same_weights_and_another_seed_others(levit, small_configs, seed):
    first, again, other = (
        flatten(random_model(levit, small_configs["tiny"], number), levit.keymaps[0])
        for number in (seed, seed, seed + 1)
    )
    assert list(first) == list(again)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    weights = [key for key in first if key.endswith(".weight")]
    assert all(np.abs(first[key] - other[key]).max() > 1e-3 for key in weights)


def test_what_was_measured_is_what_is_given(levit, small_configs, seed, monkeypatch):
    measured = []

    def measure(model, inputs):
        measured.append((model, inputs))
        return conditioning(model, inputs)

    monkeypatch.setattr(random_weights, "conditioning", measure)
    for name, config in small_configs.items():
        model = random_model(levit, config, seed)
        assert measured[-1][0] is model
        spread, error = conditioning(*measured[-1])
        assert spread >= 0.1, name
        assert error <= 1e-5, name


def test_other_pictures_are_told_apart_too(small, draw):
    spread, _ = conditioning(small, draw(small.config, 6)[1])
    assert spread >= 0.1


def test_the_promise_is_checked_and_drawn_again(levit, small_configs, monkeypatch):
    measured = []

    def measure(model, inputs):
        measured.append(conditioning(model, inputs))
        return (0.01, 0.0) if len(measured) < 3 else measured[-1]

    monkeypatch.setattr(random_weights, "conditioning", measure)
    model = random_model(levit, small_configs["tiny"], 5)
    assert len(measured) == 3
    assert measured[-1][0] >= random_weights.MIN_SPREAD
    assert measured[-1][1] <= random_weights.MAX_FLOAT32_ERROR
    monkeypatch.undo()
    first = random_model(levit, small_configs["tiny"], 5)
    assert not np.array_equal(first.params.stem[0].weight, model.params.stem[0].weight)


@pytest.mark.parametrize("measurement", [(0.05, 0.0), (0.5, 1e-4), (np.nan, 0.0), (0.5, np.nan)])
def test_when_no_draw_is_fit_it_says_so(levit, small_configs, monkeypatch, measurement):
    monkeypatch.setattr(random_weights, "conditioning", lambda model, inputs: measurement)
    with pytest.raises(ExportError, match="another --random-weights SEED"):
        random_model(levit, small_configs["one_stage"], 1)


def test_conditioning_sees_a_deaf_network(make_small, draw):
    model = make_small("plain")
    x = draw(model.config)[1]
    head = replace(model.params.head, weight=np.zeros_like(model.params.head.weight))
    deaf = replace(model, params=replace(model.params, head=head))
    assert conditioning(deaf, x)[0] == 0
    assert conditioning(model, x)[0] > 0.05


def test_conditioning_sees_what_float32_cannot_compute(make_small, draw):
    # A bias of 1e5 that the norm takes away again: exact in theory, rounded to 1e-2 on the way.
    model = make_small("plain")
    x = draw(model.config)[1]
    conv = model.params.stem[0]
    norm = replace(conv.norm, mean=conv.norm.mean.astype(np.float64) + 1e5)
    conv = replace(conv, bias=np.full(len(conv.weight), 1e5), norm=norm)
    rounded = replace(model, params=replace(model.params, stem=(conv, *model.params.stem[1:])))
    spread, error = conditioning(rounded, x)
    assert error > 1e-4
    assert spread == pytest.approx(conditioning(model, x)[0], rel=1e-6)


def test_statistics_come_from_data(small):
    norms = layers_of(small.params, BatchNorm).values()
    assert norms
    for norm in norms:
        assert (norm.var > 0).all()
        assert np.isfinite(norm.mean).all()
    assert any(np.abs(norm.mean).max() > 0.01 for norm in norms)


def test_weights_are_float32(small):
    tensors = flatten(small, keymap_of(small))
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}


# ---------------------------------------------------------------------------- flatten


def test_build_takes_back_what_flatten_gives(small, draw):
    keymap = keymap_of(small)
    tensors = flatten(small, keymap)
    weights = StrictWeights(tensors)
    params = small.family.build(small.config, keymap, weights)
    weights.finish("flat", keymap.ignores)
    again = Model(small.family, small.config, params, small.plan)
    x = draw(small.config)[1]
    found, expected = (m.forward(NumpyOps(), x) for m in (again, small))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_flatten_gives_back_what_build_has_taken(levit, small_configs, rng):
    # Numbers that are all different: none is lost, doubled or moved.
    config = small_configs["conv"]
    for keymap in levit.keymaps:

        class Source:
            def __init__(self):
                self.tensors = {}

            def tensor(self, key, shape):
                self.tensors[key] = rng.standard_normal(shape).astype(np.float32)
                return self.tensors[key]

            def constant(self, key, value):
                pass

        source = Source()
        params = levit.build(config, keymap, source)
        model = Model(levit, config, params, None)
        flat = flatten(model, keymap)
        assert list(flat) == list(source.tensors)
        for key, value in source.tensors.items():
            assert np.array_equal(flat[key], value), key


def test_flatten_keeps_float64(make_small):
    model = make_small("tiny")
    stem = model.params.stem[0]
    wide = replace(stem, weight=stem.weight.astype(np.float64) + 1e-12)
    tree = replace(model.params, stem=(wide, *model.params.stem[1:]))
    tensors = flatten(replace(model, params=tree), keymap_of(model))
    assert np.array_equal(tensors["stem.conv1.linear.weight"], wide.weight)
