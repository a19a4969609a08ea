import pytest

from levit.errors import ConfigError
from levit.models.registry import DIGITS, FAMILIES, canonical, find_variant, known_names

SIZES = ("128s", "128", "192", "256", "384", "384_s8", "512_s8", "512", "256d", "512d")


def test_the_variants_are_timms_in_both_forms():
    names = [f"levit_{size}" for size in SIZES] + [f"levit_conv_{size}" for size in SIZES]
    assert list(FAMILIES["levit"].variants) == names
    assert known_names()[: len(names) + 1] == [DIGITS, *names]


def test_the_variants_of_the_other_families_are_timms():
    deit = [f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")]
    deit += ["deit_base_patch16_384"]
    deit += [f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base")]
    deit += ["deit_base_distilled_patch16_384"]
    deit += [f"deit3_small_patch16_{size}" for size in (224, 384)] + ["deit3_medium_patch16_224"]
    deit += [f"deit3_{s}_patch16_{size}" for s in ("base", "large") for size in (224, 384)]
    assert list(FAMILIES) == ["levit", "deit", "convit", "vit"]
    assert list(FAMILIES["deit"].variants) == deit
    assert list(FAMILIES["convit"].variants) == [f"convit_{s}" for s in ("tiny", "small", "base")]
    vit = set(FAMILIES["vit"].variants)
    assert vit >= {f"vit_{s}_patch16_{n}" for s in ("tiny", "small", "base") for n in (224, 384)}
    assert vit >= {"vit_base_patch8_224", "vit_large_patch16_224", "vit_medium_patch16_gap_256"}
    assert vit >= {"vit_wee_patch16_reg1_gap_256", "vit_small_patch14_reg4_dinov2"}
    assert all(name.startswith("vit_") for name in vit)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("levit_128s", "levit_128s"),
        ("LeViT-128S", "levit_128s"),
        ("levit-128S", "levit_128s"),
        ("facebook/levit-128S", "levit_128s"),
        ("facebook/levit-384", "levit_384"),
        ("timm/levit_128.fb_dist_in1k", "levit_128"),
        ("levit_128.fb_dist_in1k", "levit_128"),
        ("timm/levit_conv_256.fb_dist_in1k", "levit_conv_256"),
        ("LeViT-Conv-256", "levit_conv_256"),
        ("levit-conv-384-s8", "levit_conv_384_s8"),
        ("LeViT_512D", "levit_512d"),
        ("levit128s", "levit_128s"),
        ("  levit_192\n", "levit_192"),
        ("facebook/deit-base-distilled-patch16-384", "deit_base_distilled_patch16_384"),
        ("deit_tiny_patch16_224.fb_in1k", "deit_tiny_patch16_224"),
        ("timm/convit_base.fb_in1k", "convit_base"),
        ("timm/deit3_small_patch16_224.fb_in1k", "deit3_small_patch16_224"),
        ("vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2"),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", "vit_base_patch16_224"),
    ],
)
def test_what_people_call_a_model(said, name):
    found, family, variant = find_variant(said)
    assert found == name
    assert family is FAMILIES[name.split("_")[0].rstrip("3")]
    assert variant is family.variants[name]
    assert getattr(variant.config, "conv", False) == ("_conv_" in name)


@pytest.mark.parametrize("name", FAMILIES["levit"].variants)
def test_every_name_is_its_own(name):
    assert canonical(name) == name
    assert find_variant(name)[0] == name


@pytest.mark.parametrize(
    ("said", "suggestion"),
    [
        ("levit_128x", "levit_128"),
        ("levit_129s", "levit_128s"),
        ("levti_256", "levit_256"),
        ("levit_conv_191", "levit_conv_192"),
        ("levit_digit", "levit_digits"),
    ],
)
def test_a_near_miss_gets_suggestions(said, suggestion):
    with pytest.raises(ConfigError, match="did you mean") as caught:
        find_variant(said)
    message = str(caught.value)
    assert suggestion in message.split("did you mean")[1].replace("?", "").split()
    assert repr(said) in message
    assert "levit list" in message


@pytest.mark.parametrize(
    "said",
    ["somebody/levit_128", "me/levit_digits", "timm/levit_128.mine", "levit_128.fb_dist_in22k",
     "./levit_128", "runs/levit_128", "hf:facebook/levit-128", "hf-hub:timm/levit_128"],
)  # fmt: skip
def test_somebody_elses_model_is_not_the_published_one(said):
    """Its weights are other weights, which nobody should get unawares."""
    with pytest.raises(ConfigError, match="unknown model") as caught:
        find_variant(said)
    assert canonical(said) not in known_names()
    assert ("--checkpoint hf:OWNER/NAME" in str(caught.value)) == ("/" in said)


@pytest.mark.parametrize("said", ["resnet50", "", "/", "."])
def test_something_else_gets_none(said):
    with pytest.raises(ConfigError, match="unknown model") as caught:
        find_variant(said)
    assert "did you mean" not in str(caught.value)
    assert "levit list" in str(caught.value)


def test_published_variants_name_their_repository():
    published = {n: v for n, v in FAMILIES["levit"].variants.items() if v.hub_id}
    assert set(published) == {f"levit_{form}{size}" for form in ("", "conv_") for size in SIZES[:5]}
    for name, variant in published.items():
        assert variant.hub_id == f"timm/{name}.fb_dist_in1k"
        assert find_variant(variant.hub_id)[0] == name
        assert 76 < variant.top1 < variant.top5 < 97
        assert variant.config.distilled
    for name, variant in FAMILIES["levit"].variants.items():
        if name not in published:
            assert variant.top1 is variant.top5 is None
