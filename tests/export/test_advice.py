"""Advice of error messages: whoever does what they say has an export within two steps."""

import inspect
import json
import re

import pytest
from safetensors.numpy import save_file

from levit.cli import main
from levit.errors import ConfigError, LevitError
from levit.export import ExportOptions
from levit.export.sources import load_source
from levit.models.levit.config import levit_config
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig
from levit.models.user_config import read_user_config

SHAPE = dict(
    image_size=(32, 32), patch_size=16, num_classes=5, width=128, depth=2, heads=2, mlp_width=96
)
DISTILLED = dict(distilled=True, distilled_head=True)
# Family, source, config: all outside the tables but the last.
KINDS = {
    "vit": ("vit", "timm", TransformerConfig(**SHAPE)),
    "patch_8": ("vit", "timm", TransformerConfig(**{**SHAPE, "patch_size": 8})),
    "no_qkv_bias": ("vit", "timm", TransformerConfig(**SHAPE, qkv_bias=False)),
    "deit": ("deit", "timm", TransformerConfig(**SHAPE, **DISTILLED)),
    "convit": ("convit", "timm", TransformerConfig(**SHAPE, local_depth=1)),
    "transformers": ("vit", "transformers", TransformerConfig(**SHAPE, norm_eps=1e-12)),
    "levit": ("levit", "timm", levit_config(
        widths=(32, 48), key_dim=16, heads=(2, 3), depths=(1, 1), num_classes=5,
        image_size=(64, 64),
    )),
    "known": ("deit", "timm", TransformerConfig(
        image_size=(32, 32), patch_size=16, num_classes=5, width=192, depth=12, heads=3,
        mlp_width=768,
    )),
}  # fmt: skip
NAMES = (None, "vit", "vit_small_patch16_224", "deit_tiny_patch16_224", "levit_128s", "convit_tiny")
STEPS = 2


@pytest.fixture
def save(tmp_path, seed):
    """(kind, config.json beside it) → a folder."""

    def write(kind, beside=None):
        family, source, config = KINDS[kind]
        family = FAMILIES[family]
        model = random_model(family, config, seed)
        keymap = next(k for k in family.keymaps if k.source == source)
        folder = tmp_path / "weights"
        folder.mkdir()
        save_file(flatten(model, keymap), folder / "model.safetensors")
        if beside is not None:
            (folder / "config.json").write_text(json.dumps(beside))
        return folder

    return write


def obeyed(message, options):
    """The options with the first flag of each name that a message gives, taken literally."""
    flags = re.findall(r"--(model|config|image-size) ('[^']*'|[\w./]+)", message)
    assert flags, message
    options = dict(options)
    for flag, value in reversed(flags):  # the first of several stands last
        if flag == "config":
            said = {**json.loads(options.get("config", "{}")), **json.loads(value.strip("'"))}
            options["config"] = json.dumps(said)
        elif flag == "image-size":
            options["image_size"] = tuple(map(int, value.split("x")))
        else:
            options["model"] = value
    return options


def led(folder, **options):
    """The source that following every message leads to, and the messages."""
    messages = []
    for _ in range(STEPS + 1):
        try:
            return load_source(ExportOptions(checkpoint=folder, **options)), messages
        except LevitError as error:
            messages.append(str(error))
            options = obeyed(messages[-1], options)
    raise AssertionError("\n".join(messages))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_message_leads_to_an_export(save, kind, name):
    source, messages = led(save(kind), **({} if name is None else {"model": name}))
    family, _, config = KINDS[kind]
    assert source.model.config == config, messages
    same = {"vit", "deit"}
    assert source.model.family.name in (same if family in same else {family})


@pytest.mark.parametrize("said", ["vit_small_patch16_224", "deit_tiny_patch16_224"])
@pytest.mark.parametrize("kind", ["vit", "deit", "levit", "known"])
def test_a_wrong_name_beside_the_weights_is_no_dead_end(save, kind, said):
    source, _ = led(save(kind, {"architecture": said}))
    assert source.model.config == KINDS[kind][2]


@pytest.mark.parametrize("said", [{"num_classes": 3}, {"in_chans": 1}])
def test_a_wrong_number_beside_the_weights_is_no_dead_end(save, said):
    beside = {"architecture": "vit_custom", "model_args": {"num_heads": 2}, **said}
    source, messages = led(save("vit", beside))
    assert len(messages) == 1
    assert source.model.config == KINDS["vit"][2]


def test_labels_of_another_head_are_dropped_with_its_number_of_classes(save):
    beside = {"architecture": "vit_x", "num_classes": 3, "label_names": ["a", "b", "c"]}
    folder = save("vit", {**beside, "model_args": {"num_heads": 2}})
    source = load_source(ExportOptions(checkpoint=folder, config={"num_classes": 5}))
    assert source.hints.label_names is None


@pytest.mark.parametrize(
    "config",
    [
        '{"num_heads": 4, "architecture": "vit_mine"}',
        {"num_heads": 4, "architecture": "vit_mine"},
        {"model_args": {"num_heads": 4}, "architecture": "vit_mine"},
        {"num_attention_heads": 4, "architecture": "vit_mine"},
    ],
    ids=str,
)
def test_a_config_may_be_text_or_a_mapping_and_names_the_family(save, config):
    source = load_source(ExportOptions(checkpoint=save("vit"), config=config))
    assert source.model.family.name == "vit"
    assert source.variant == "vit_mine"
    assert source.model.config.heads == 4


@pytest.mark.parametrize("key", ["num_heads", "num_attention_heads"])
@pytest.mark.parametrize(
    "beside",
    [
        {"architecture": "vit_x", "model_args": {"num_heads": 2, "norm_eps": 1e-3}},
        {"architecture": "vit_x", "num_heads": 2, "norm_eps": 1e-3},
        {"model_type": "vit", "num_attention_heads": 2, "layer_norm_eps": 1e-3},
    ],
    ids=str,
)
def test_a_users_word_overrules_one_setting_and_leaves_the_others(save, beside, key):
    kind = "transformers" if "model_type" in beside else "vit"
    source = load_source(ExportOptions(checkpoint=save(kind, beside), config={key: 4}))
    assert (source.model.config.heads, source.model.config.norm_eps) == (4, 1e-3)
    assert not any("epsilon" in text for text in source.assumed)


def test_epsilon_and_activation_are_assumed_aloud_until_they_are_said(save):
    folder = save("vit")
    heads = {"num_heads": 2, "architecture": "vit_x"}
    source = load_source(ExportOptions(checkpoint=folder, config=heads))
    assert source.assumed == (
        """LayerNorm epsilon 1e-06: the default of timm (another: --config '{"norm_eps": 1e-5}')""",
        """activation gelu: the default of timm (another: --config '{"act_layer": "silu"}')""",
        "pooling: the class token, as no file says otherwise (an average over the patches has the "
        "same tensors)",
        "image size 32x32: a square (16x64 has the same tokens)",
    )
    said = {**heads, "norm_eps": 1e-5, "act_layer": "silu", "global_pool": "token", "img_size": 32}
    source = load_source(ExportOptions(checkpoint=folder, config=said))
    assert source.assumed == ()
    assert (source.model.config.norm_eps, source.model.config.activation) == (1e-5, "silu")


@pytest.mark.parametrize("kind", ["vit", "transformers"])
def test_the_command_line_follows_the_advice(save, tmp_path, capsys, kind):
    command = ["export", "--checkpoint", str(save(kind)), "--output", str(tmp_path / "out")]
    options = {}
    for _ in range(STEPS + 1):
        flags = [word for key, value in options.items() for word in (f"--{key}", value)]
        code = main([*command, *flags])
        if code == 0:
            break
        options = obeyed(capsys.readouterr().err, options)
    assert (tmp_path / "out" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{num_heads: 6}", "--config: cannot be read as JSON"),
        ('{"num_heads": "six"}', "num_heads: expected a whole number, not 'six'"),
        ("heads.json", "heads.json: no such file"),
        ({"num_heads": 3}, "3 heads do not divide a width of 128"),
        ('{"num_head": 2}', "--config: unknown key 'num_head'; did you mean 'num_heads'?"),
        (
            {"num_heads": 2, "num_attention_heads": 4},
            "--config: 2 and 4 are two values of one setting, num_heads or num_attention_heads",
        ),
        ({"model_args": {"norm_ep": 1}}, "unknown key 'norm_ep'; did you mean 'norm_eps'?"),
    ],
    ids=str,
)
def test_a_bad_config_is_one_line(save, config, words):
    with pytest.raises(ConfigError) as caught:
        load_source(ExportOptions(checkpoint=save("vit"), model="vit", config=config))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_keys_of_a_library_are_no_misspelling(save):
    said = {"num_heads": 2, "drop_path_rate": 0.1, "norm_layer": None, "mlp_layer": None}
    load_source(ExportOptions(checkpoint=save("vit"), model="vit", config=said))


@pytest.mark.parametrize(
    "config",
    [
        {"model_args": {"num_attention_heads": 2}},
        {"model_args": {"num_heads": 2}, "num_attention_heads": 4},
        {"num_heads": 2, "num_attention_heads": 2},
    ],
    ids=str,
)
def test_both_librarys_spellings_mean_one_setting(save, config):
    source = load_source(ExportOptions(checkpoint=save("vit"), model="vit", config=config))
    assert source.model.config.heads == 2


@pytest.mark.parametrize("key", ["id2label", "label_names"])
@pytest.mark.parametrize("names", [["a", "b", "c"], {"1": "b", "0": "a", "2": "c"}], ids=str)
def test_class_names_of_a_config_in_either_spelling(save, key, names):
    options = ExportOptions(
        checkpoint=save("vit"), model="vit", config={"num_heads": 2, key: names}
    )
    source = load_source(options)
    assert source.hints.label_names == ("a", "b", "c")


def test_a_type_of_transformers_leaves_timms_epsilon(save):
    said = {"model_type": "vit", "num_attention_heads": 2}
    source = load_source(ExportOptions(checkpoint=save("vit"), config=said))
    assert source.keymap.source == "timm"
    assert source.model.config.norm_eps == 1e-6
    assert any("LayerNorm epsilon 1e-06: the default of timm" in word for word in source.assumed)


def test_a_key_that_is_no_text_is_an_error(save):
    with pytest.raises(ConfigError, match="config has the key 3, and keys are names"):
        load_source(ExportOptions(checkpoint=save("vit"), model="vit", config={3: 4}))


@pytest.mark.peers
def test_no_argument_of_the_libraries_is_a_misspelling():
    import timm
    import transformers

    vit, convit = timm.models.vision_transformer, timm.models.convit
    for kind in (vit.VisionTransformer, convit.ConVit, timm.models.levit.Levit):
        read_user_config(dict.fromkeys(inspect.signature(kind).parameters))
    for kind in (transformers.LevitConfig, transformers.ViTConfig, transformers.DeiTConfig):
        read_user_config(kind().to_dict())
    read_user_config(timm.get_pretrained_cfg("vit_base_patch16_224").to_dict())


@pytest.mark.parametrize("config", [6, b"{}", ["num_heads"], True])
def test_a_config_is_a_path_a_text_or_a_mapping(config):
    with pytest.raises(ConfigError, match="config is a path"):
        ExportOptions(config=config)


def test_a_family_alone_is_no_model():
    with pytest.raises(ConfigError, match="'ViT' is a family: name one of its models, such as vit"):
        load_source(ExportOptions(model="ViT"))


def test_random_weights_take_widths_as_text_and_a_family():
    widths = {"embed_dim": 64, "depth": 1, "num_heads": 2, "img_size": 32, "num_classes": 3}
    source = load_source(
        ExportOptions(model="vit", random_weights=0, config=json.dumps(widths), image_size=32)
    )
    assert source.variant == "vit_custom"
    assert source.model.config.heads == 2
