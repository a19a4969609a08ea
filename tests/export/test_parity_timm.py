"""The deployed artifact against timm itself, on weights and pictures that every run draws anew."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from parity import deployments, relative_error, run_artifact
from safetensors.numpy import save_file

from levit.export import ExportOptions, export
from levit.export.prepare import prepare
from levit.models.checkpoint import StrictWeights
from levit.models.levit.config import levit_config
from levit.models.model import Model, Plan
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES
from levit.runtime.backends import SessionOptions, open_session

pytestmark = pytest.mark.peers

LEVIT = FAMILIES["levit"]
VARIANTS = LEVIT.variants

REFERENCE = 1e-10  # two float64 evaluations
DEPLOYED = 1e-5  # float32, of the largest value


@pytest.fixture
def folder(tmp_path):
    """Emptied at once: pytest keeps its folders for three runs, and these are gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def small_size(config):
    """Two sides, both with odd grids on the way."""
    return (96, 64) if config.stem_stride == 16 else (40, 56)


def timm_network(name, config, state):
    """timm's model of this name with `state`, float64, for inference."""
    import timm
    import torch

    # Not what create_model's defaults would be: heads, channels and size are the config's.
    network = timm.create_model(
        name,
        pretrained=False,
        img_size=config.image_size,
        in_chans=config.in_channels,
        num_classes=config.num_classes,
    )
    loaded = network.load_state_dict(
        {key: torch.from_numpy(value) for key, value in state.items()}, strict=False
    )
    assert loaded.unexpected_keys == []
    assert all(key.endswith("num_batches_tracked") for key in loaded.missing_keys)
    return network.eval()


def evaluate(network, x, functions):
    """name → (float64 result, float32 error as a fraction of the largest value).

    The network is float64 afterwards.
    """
    import torch

    with torch.no_grad():
        single = {name: f(network, torch.from_numpy(x)).numpy() for name, f in functions.items()}
        # It keeps the gathered biases of float32 until it is told to train.
        network.double().train().eval()
        x = torch.from_numpy(x).double()
        exact = {name: function(network, x).numpy() for name, function in functions.items()}
    return {name: (exact[name], relative_error(single[name], exact[name])) for name in exact}


FUNCTIONS = {
    "logits": lambda net, t: net(t),
    "embedding": lambda net, t: net.forward_head(net.forward_features(t), pre_logits=True),
    "features": lambda net, t: net.forward_features(t),
    "logits_head": lambda net, t: both_heads(net, t)[0],
    "logits_dist": lambda net, t: both_heads(net, t)[1],
}


def drawn(name, config, seed, folder):
    """timm's network of weights that are drawn anew, and a checkpoint of them in the folder."""
    model = random_model(LEVIT, replace(config, conv=False), seed)
    state = flatten(model, next(k for k in LEVIT.keymaps if k.conv == config.conv))
    save_file(state, folder / "model.safetensors")
    return timm_network(name, config, state)


def compare(name, config, seed, folder, *, outputs=("logits",)):
    network = drawn(name, config, seed, folder)
    pictures = smooth_pictures(
        np.random.default_rng(seed), 2, config.image_size, config.in_channels
    )
    x = standardized(pictures)
    options = ExportOptions(
        checkpoint=folder / "model.safetensors",
        image_size=config.image_size,
        outputs=outputs,
        output=folder / "artifact",
    )
    prepared = prepare(options)
    assert prepared.trained.config == config
    assert prepared.source.variant == name
    reference = prepared.trained.forward(NumpyOps(), x.astype(np.float64))
    assert set(reference) == set(outputs)
    deployed = {a.manifest.target: run_artifact(a, x) for a in deployments(prepared)}
    evaluated = evaluate(network, x, {output: FUNCTIONS[output] for output in outputs})
    for output, (expected, single) in evaluated.items():
        at = f"{name} {config.image_size} {output}, LEVIT_TEST_SEED={seed}"
        assert np.ptp(expected, axis=0).max() > 0.05 * np.abs(expected).max(), f"deaf: {at}"
        error = relative_error(reference[output], expected)
        assert error <= REFERENCE, f"reference off by {error:.1e}: {at}"
        for target, found in deployed.items():
            error = relative_error(found[output], expected)
            assert error <= max(DEPLOYED, 2 * single), (
                f"{target} off by {error:.1e}, timm's own float32 is by {single:.1e}: {at}"
            )


def both_heads(network, x):
    """What timm returns of the two heads while it trains, here without the training."""
    network.distilled_training = network.training = True  # and none of its modules
    answer = network(x)
    network.distilled_training = network.training = False
    return answer


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_on_small_images(name, seed, folder):
    config = VARIANTS[name].config
    config = replace(config, image_size=small_size(config), num_classes=50)
    # A picture of two sides fits other sizes too; the size that was said is the one.
    compare(name, config, seed, folder)


@pytest.mark.parametrize("name", [n for n, variant in VARIANTS.items() if variant.hub_id])
def test_published_variants_at_full_size(name, seed, folder):
    compare(name, VARIANTS[name].config, seed, folder)


def is_like_another(name):
    """Say if its weights alone are other than a variant's that is not: a twin, or a wider one.

    A twin has the same weights in another form, and the same program (test_lowering.py).
    """
    return name.startswith("levit_conv") or "512" in name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.nightly if is_like_another(n) else pytest.mark.slow)
        for n, variant in VARIANTS.items()
        if not variant.hub_id
    ],
)
def test_unpublished_variants_at_full_size(name, seed, folder):
    compare(name, VARIANTS[name].config, seed, folder)


@pytest.mark.parametrize("name", ["levit_128s", "levit_conv_128s", "levit_192", "levit_conv_192"])
def test_every_output_of_a_distilled_variant(name, seed, folder):
    config = replace(VARIANTS[name].config, image_size=(96, 64), num_classes=20)
    outputs = ("logits", "embedding", "features", "logits_head", "logits_dist")
    compare(name, config, seed, folder, outputs=outputs)


@pytest.mark.parametrize("name", ["levit_256d", "levit_conv_256d"])
def test_every_output_of_a_plain_variant(name, seed, folder):
    config = replace(VARIANTS[name].config, image_size=(64, 96), num_classes=20)
    compare(name, config, seed, folder, outputs=("logits", "embedding", "features"))


@pytest.mark.parametrize("name", ["levit_128", "levit_conv_128"])
def test_a_headless_variant(name, seed, folder):
    # Without heads a distilled model cannot be told from a plain one.
    config = replace(VARIANTS[name].config, image_size=(80, 80), num_classes=0, distilled=False)
    compare(name, config, seed, folder, outputs=("embedding", "features"))


@pytest.mark.native
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.nightly if is_like_another(n) else pytest.mark.slow)
        for n in VARIANTS
    ],
)
def test_every_batch_and_number_of_threads(name, seed, folder):
    """Every output, by tensors and by pixels: our engine divides batches in ways of its own."""
    config = VARIANTS[name].config
    config = replace(config, image_size=small_size(config), num_classes=50)
    network = drawn(name, config, seed, folder)
    pixels = smooth_pictures(np.random.default_rng(seed), 33, config.image_size)
    batches = {"float32": standardized(pixels), "uint8": pixels}
    outputs = LEVIT.outputs(config)
    evaluated = evaluate(network, batches["float32"], {key: FUNCTIONS[key] for key in outputs})
    for dtype, batch in batches.items():
        options = ExportOptions(
            checkpoint=folder / "model.safetensors", image_size=config.image_size,
            outputs=outputs, target="native", input=dtype, mean=[127.5 / 255], std=[64 / 255],
            verify="none", output=folder / dtype,
        )  # fmt: skip
        artifact = export(options)
        for threads in range(1, 5):
            session = open_session(artifact, SessionOptions(threads=threads))
            # Every batch on some number of threads, and some on every one.
            for images in (1, 2, *range(2 + threads, 34, 4)):
                found = session.run({artifact.manifest.inputs[0].name: batch[:images]})
                for output, (expected, single) in evaluated.items():
                    off = np.abs(found[output] - expected[:images]).max() / np.abs(expected).max()
                    assert off <= max(DEPLOYED, 2 * single), (
                        f"{output} of {images} {dtype} on {threads} threads is off by {off:.1e}, "
                        f"timm's own float32 by {single:.1e}: {name}, LEVIT_TEST_SEED={seed}"
                    )


@pytest.mark.parametrize("channels", [1, 5])
def test_other_input_channels(channels, seed, folder):
    config = replace(
        VARIANTS["levit_128s"].config, image_size=(64, 64), in_channels=channels, num_classes=9
    )
    compare("levit_128s", config, seed, folder)


def test_our_variants_are_timms():
    import timm

    assert set(VARIANTS) == set(timm.list_models("levit*"))
    published = {name for name, variant in VARIANTS.items() if variant.hub_id}
    assert published == set(timm.list_models("levit*", pretrained=False)) & {
        name.split(".")[0] for name in timm.list_pretrained("levit*")
    }
    for name in published:
        hub_id = timm.get_pretrained_cfg(name).hf_hub_id
        assert VARIANTS[name].hub_id.startswith("timm/")
        assert VARIANTS[name].hub_id.removeprefix("timm/") in timm.list_pretrained("levit*")
        assert hub_id in ("timm/", VARIANTS[name].hub_id)


@pytest.mark.parametrize("name", ["tiny", "one_stage", "silu_stride_8", "conv_wide", "headless"])
def test_timms_own_weights_load_without_loss(name, small_configs, seed):
    # The other way round: what timm's state dict holds is what build takes, and all of it.
    import torch

    from levit.models.levit.networks import timm_arguments

    network = timm_class(small_configs[name])(**timm_arguments(small_configs[name])).eval()
    torch.manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    keymap = next(k for k in LEVIT.keymaps if k.conv == small_configs[name].conv)
    weights = StrictWeights(state)
    params = LEVIT.build(small_configs[name], keymap, weights)
    weights.finish(name, keymap.ignores)
    model = Model(LEVIT, small_configs[name], params, Plan(outputs=("embedding",)))
    again = flatten(model, keymap)
    assert set(state) - set(again) == {k for k in state if keymap.ignores(k)}
    for key, value in again.items():
        assert np.array_equal(value, state[key]), key


def timm_class(config):
    from timm.models import levit

    return levit.LevitDistilled if config.distilled else levit.Levit


@pytest.mark.parametrize("conv", [False, True])
def test_a_custom_network_against_timms_class(conv, seed, folder):
    import torch

    from levit.models.levit.networks import timm_arguments

    config = levit_config(
        widths=(32, 64, 96), key_dim=16, heads=(2, 3, 5), depths=(1, 2, 1),
        image_size=(80, 112), num_classes=11, mlp_ratio=3.0, distilled=False, conv=conv,
    )  # fmt: skip
    model = random_model(LEVIT, config, seed)
    state = flatten(model, next(k for k in LEVIT.keymaps if k.conv == conv))
    network = timm_class(config)(**timm_arguments(config)).eval()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    rng = np.random.default_rng(seed)
    x = standardized(smooth_pictures(rng, 3, config.image_size))
    expected, _ = evaluate(network, x, {"logits": lambda net, t: net(t)})["logits"]
    found = model.forward(NumpyOps(), x.astype(np.float64))["logits"]
    assert relative_error(found, expected) <= REFERENCE, f"LEVIT_TEST_SEED={seed}"
