"""Which of a file's weights are taken, by default and by --weights, and what is left out."""

import json

import numpy as np
import pytest
import real_networks
from pth_writer import write_pth

from levit.cli import main
from levit.errors import CheckpointError, ConfigError
from levit.export import ExportOptions
from levit.export.sources import load_source
from levit.models.bookkeeping import is_bookkeeping
from levit.models.random_weights import flatten

HEAD = "head.linear.bias"
# Of a classifier, by source.
BIASES = ("head.linear.bias", "head.l.bias", "classifier.linear.bias")


@pytest.fixture(scope="module")
def names(make_small):
    """Tensors of a small LeViT under the names of timm and of the original."""
    model = make_small("tiny")
    return {k.source: flatten(model, k) for k in model.family.keymaps if not k.conv}


@pytest.fixture(scope="module")
def tensors(names):
    return names["timm"]


@pytest.fixture
def load(tmp_path):
    """(saved object, options) → the source."""

    def make(saved, **options):
        path = write_pth(tmp_path / "m.pth", saved)
        return load_source(ExportOptions(checkpoint=path, image_size=96, **options))

    return make


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def scaled(state, factor):
    """The same model with other classifier biases, by which it is known again."""
    return {n: v * factor if n.endswith(BIASES) else v for n, v in state.items()}


def factor_of(source, state):
    """Factor by which the biases of the model that was taken are scaled."""
    mine = source.model.params.head.bias
    name = next(n for n in state if n.endswith(BIASES))
    factor = float(np.mean(mine / state[name]))
    assert np.allclose(mine, state[name] * factor)
    return round(factor)


def notes(source):
    """Words about the weights; these files do not state an activation."""
    return tuple(text for text in source.assumed if not text.startswith("activation"))


def refusal(load, saved, **options):
    with pytest.raises(CheckpointError) as caught:
        load(saved, **options)
    return str(caught.value).partition("m.pth: ")[2]


# ---------------------------------------------------------------------------- defaults


@pytest.mark.parametrize(
    ("home", "keys", "taken", "said"),
    [
        (
            "original",
            ("model", "model_ema"),
            "model",
            ("weights: model, which the main.py of facebookresearch evaluates",
             "not taken: model_ema"),
        ),
        (
            "timm",
            ("model", "model_ema"),
            "model_ema",
            ("weights: the averaged ones (model_ema), as timm takes them", "not taken: model"),
        ),
        (
            "timm",
            ("state_dict", "state_dict_ema"),
            "state_dict_ema",
            ("weights: the averaged ones (state_dict_ema), as timm takes them",
             "not taken: state_dict"),
        ),
        (
            "mmpretrain",
            ("state_dict", "ema_state_dict"),
            "state_dict",
            ("weights: state_dict", "not taken: ema_state_dict"),
        ),
        ("original", ("model",), "model", ()),
        ("transformers", ("module",), "module", ()),
    ],
)  # fmt: skip
def test_what_the_home_of_the_file_takes(load, names, home, keys, taken, said):
    saved = {key: scaled(names[home], i + 2) for i, key in enumerate(keys)}
    source = load({**saved, "epoch": 3, "optimizer": {"state": {}}})
    assert source.origin["key"] == taken
    assert factor_of(source, names[home]) == keys.index(taken) + 2
    assert notes(source) == said
    assert set(source.choices) == (set(keys) if len(keys) > 1 else set())


@pytest.mark.parametrize("key", ["model", "model_ema"])
def test_the_key_that_is_named_is_taken_and_nothing_assumed(load, names, key):
    state = names["original"]
    source = load({"model": scaled(state, 2), "model_ema": scaled(state, 3)}, weights=key)
    assert factor_of(source, state) == {"model": 2, "model_ema": 3}[key]
    assert source.origin["weights"] == key
    assert notes(source) == ()


def test_an_unknown_key_lists_what_there_is(load, tensors):
    saved = {"model": tensors, "model_ema": tensors}
    expected = "holds no weights called 'teacher', but model_ema, model"
    assert refusal(load, saved, weights="teacher") == expected
    assert refusal(load, tensors, weights="x") == "holds no weights called 'x'; leave out --weights"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, b: {"student": a, "teacher": b},
        lambda a, b: {"state_dict": {**under("student.", a), **under("teacher.", b)}},
        lambda a, b: {**under("student.", a), **under("teacher.", b)},
        lambda a, b: {"student": under("module.", a), "teacher": {"state_dict": b}},
    ],
)
def test_two_whole_models_are_a_choice(load, tensors, wrap):
    saved = wrap(scaled(tensors, 2), scaled(tensors, 3))
    message = refusal(load, saved)
    assert message.startswith("holds several models: ")
    assert "student (LeViT of timm)" in message
    name = message.rpartition(" --weights ")[2]
    assert factor_of(load(saved, weights=name), tensors) == 2
    names = load(saved, weights=name).choices
    assert [factor_of(load(saved, weights=name), tensors) for name in names] == [2, 3]


@pytest.mark.parametrize("spelling", ["teacher", "teacher.", "state_dict.teacher"])
def test_a_prefix_in_several_spellings(load, tensors, spelling):
    both = {**under("student.", tensors), **under("teacher.", scaled(tensors, 3))}
    source = load({"state_dict": both}, weights=spelling)
    assert factor_of(source, tensors) == 3
    assert source.origin["prefix"] == "teacher."
    assert notes(source) == (
        f"left out: {len(tensors)} tensors beside state_dict.teacher (student."
        f"{', student.'.join(list(tensors)[:3])} and {len(tensors) - 3} more)",
    )


def test_a_model_without_a_prefix_beside_one_with(load, tensors):
    both = {**tensors, **under("teacher.", scaled(tensors, 3))}
    assert refusal(load, both) == (
        "holds several models: . (LeViT of timm), teacher (LeViT of timm); say which with "
        "--weights ."
    )
    assert factor_of(load(both, weights="."), tensors) == 1
    assert factor_of(load(both, weights="teacher"), tensors) == 3


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        (lambda s: {"model": {"state_dict": s}}, "model.state_dict"),
        (lambda s: {"net": s, "epoch": 3}, "net"),
        (lambda s: {"ema": {"module": s, "decay": 0.9}, "step": 3}, "ema.module"),
    ],
)
def test_one_model_is_found_wherever_it_lies(load, tensors, saved, name):
    source = load(saved(tensors))
    assert source.origin["key"] == name
    assert (notes(source), source.choices) == ((), ())


def test_the_average_among_lightnings_callbacks(load, tensors):
    saved = {
        "state_dict": under("model.", tensors),
        "callbacks": {"EMA": {"ema_state_dict": under("model.", scaled(tensors, 3))}},
    }
    source = load(saved)
    assert source.choices == ("state_dict", "callbacks.EMA.ema_state_dict")
    assert notes(source) == ("weights: state_dict", "not taken: callbacks.EMA.ema_state_dict")
    assert factor_of(load(saved, weights=source.choices[1]), tensors) == 3


def test_sets_of_other_networks_are_passed_over_aloud(load, tensors):
    saved = {"model": {"conv1.weight": np.zeros(3, np.float32)}, "student": tensors}
    assert notes(load(saved)) == ("weights: student, because 'model' holds no model that is known",)


def test_weights_that_cannot_be_read_are_not_passed_over(load, tensors):
    saved = {"model_ema": {"a": [1], "b": np.ones(3, np.float32)}, "model": tensors}
    assert refusal(load, saved) == (
        "there are other things than tensors under 'model_ema': a (list); take them out and save "
        "it again; or say --weights model"
    )
    assert notes(load(saved, weights="model")) == ()


def test_what_is_not_taken_is_not_read(load, tensors):
    broken = {**tensors, HEAD: np.full(10, np.nan, np.float32)}
    assert load({"model": tensors, "model_ema": broken}, weights="model").origin["key"] == "model"
    assert "NaN" in refusal(load, {"model": tensors, "model_ema": broken})
    both = {**under("a.", tensors), **under("b.", broken)}
    assert load(both, weights="a").origin["prefix"] == "a."


# ---------------------------------------------------------------------------- beside a model

EXTRA = {
    "criterion.weight": np.ones(10, np.float32),
    "train_acc.correct": np.array(3, np.int64),
    "loss_fn.teacher.conv1.weight": np.ones((3, 3), np.float32),
}


@pytest.mark.parametrize("prefix", ["", "model.", "net.model."])
def test_bookkeeping_beside_one_model_is_left_out_with_a_note(load, tensors, prefix):
    source = load({"state_dict": {**under(prefix, tensors), **EXTRA}})
    assert notes(source) == (
        "left out: 3 tensors (criterion.weight, train_acc.correct, loss_fn.teacher.conv1.weight)",
    )
    assert factor_of(source, tensors) == 1


def test_bookkeeping_of_a_module_that_holds_the_model_too(load, tensors):
    state = {**under("net.model.", tensors), "net.criterion.weight": np.ones(3, np.float32)}
    assert notes(load(state)) == ("left out: 1 tensor (net.criterion.weight)",)


def test_a_whole_model_inside_a_loss_is_no_choice(load, tensors):
    state = {**under("model.", tensors), **under("criterion.teacher.", scaled(tensors, 3))}
    source = load(state)
    assert factor_of(source, tensors) == 1
    assert source.choices == ()
    assert f"left out: {len(tensors)} tensors (criterion.teacher." in notes(source)[0]


def test_values_that_are_no_tensors_are_left_out_with_a_note(load, tensors):
    saved = {**tensors, "epoch": 3, "arch": "x", "head.gone": None, "stem._extra_state": b"1"}
    assert notes(load(saved)) == ("left out: epoch (int), arch (str), head.gone (None) and 1 more",)


@pytest.mark.parametrize(
    "name",
    [
        "fc_norm.weight", "reg_token", "projector.weight", "classifier.weight", "normalize.mean",
        "blocks.0.ls1.gamma", "stages.0.blocks.0.attn.q_norm.weight", "head.fc3.weight",
        "lossy.weight", "head.criterion.weight", "decay",
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_may_be_a_part_of_the_network_is_refused(load, tensors, prefix, name):
    message = refusal(load, {**under(prefix, tensors), name: np.ones(3, np.float32)})
    if prefix:
        assert message.endswith(
            f"it holds a LeViT of timm under 'model.' beside 1 other tensors ({name}): save it "
            f"without them, or leave them out with --weights model"
        )
        source = load({**under(prefix, tensors), name: np.ones(3, np.float32)}, weights="model")
        assert notes(source) == (f"left out: 1 tensor beside model ({name})",)
    else:
        assert message.endswith(f"tensors do not fit the model; 1 not used by this model: {name}")


def test_names_of_bookkeeping():
    assert is_bookkeeping("n_averaged", ())
    assert not is_bookkeeping("n_averaged", (3,))
    assert is_bookkeeping("net.criterion.weight", (3,), "net.model.")
    assert not is_bookkeeping("net.criterion.weight", (3,))
    assert not is_bookkeeping("net.head.loss.weight", (3,), "net.model.")


# ---------------------------------------------------------------------------- elsewhere


def test_only_checkpoints_have_a_choice():
    for options in ({"random_weights": 0, "model": "levit_128s"}, {"model": "levit_digits"}):
        with pytest.raises(ConfigError, match="weights chooses among those in a checkpoint"):
            load_source(ExportOptions(weights="model", **options))
    with pytest.raises(ConfigError, match="weights is a name, not 3"):
        ExportOptions(weights=3)


def test_shards_and_safetensors_have_prefixes_too(tmp_path, tensors):
    from safetensors.numpy import save_file

    both = {**under("student.", tensors), **under("teacher.", scaled(tensors, 3))}
    save_file(both, tmp_path / "part.safetensors")
    index = {"weight_map": dict.fromkeys(both, "part.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path, tmp_path / "part.safetensors"):
        options = ExportOptions(checkpoint=path, image_size=96, weights="teacher")
        source = load_source(options)
        assert factor_of(source, tensors) == 3
        assert source.choices == ("student", "teacher")


def test_what_a_teacher_taught_is_advised(load, tensors):
    # The names of a whole FeatureDistillationTask of timm 1.0.31.
    saved = {
        **under("teacher.model.", tensors),
        **under("trainable_module.student.", scaled(tensors, 3)),
    }
    with pytest.raises(
        CheckpointError, match=r"say which with --weights trainable_module\.student$"
    ):
        load(saved)
    source = load(saved, weights="trainable_module.student")
    assert factor_of(source, tensors) == 3


def test_inspect_lists_the_weights(tmp_path, names, capsys):
    state = names["original"]
    path = str(write_pth(tmp_path / "m.pth", {"model": state, "model_ema": state}))
    assert main(["inspect", path, "--image-size", "96"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["weights", "model;", "others:", "model_ema"] in lines
    assert main(["inspect", path, "--image-size", "96", "--weights", "model_ema", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["weights"] == ["model_ema", "model"]
    assert values["source"]["weights"] == "model_ema"
    assert main(["inspect", "levit_digits", "--weights", "model"]) == 1
    assert "--image-size are for checkpoints, not for a model's name" in capsys.readouterr().err


@pytest.mark.peers
def test_averages_of_pytorch_itself(tmp_path):
    import torch
    from torch.optim.swa_utils import AveragedModel

    network, other = real_networks.levit(0), real_networks.levit(1)
    averaged = AveragedModel(network)
    averaged.update_parameters(network)
    averaged.update_parameters(other)
    lightning = torch.nn.Module()
    lightning.model, lightning.ema_model = network, averaged
    path = tmp_path / "m.pth"
    torch.save({"state_dict": lightning.state_dict(), "epoch": 3}, path)

    def take(weights):
        options = ExportOptions(checkpoint=path, image_size=64, weights=weights)
        return load_source(options)

    real_networks.assert_answers(take("model"), network)
    real_networks.assert_answers(take("ema_model"), averaged.module)
    torch.save(averaged.state_dict(), path)
    real_networks.assert_answers(take(None), averaged.module)
