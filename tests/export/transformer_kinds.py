"""Small vision transformers of every kind: (family, fields of the config beside the sizes)."""

SIZES = dict(
    image_size=(64, 64), patch_size=16, num_classes=7, width=48, depth=3, heads=3, mlp_width=96
)

_DISTILLED = dict(distilled=True, distilled_head=True)
_LOCAL = dict(local_depth=2, qkv_bias=False)
KINDS = {
    "deit": ("deit", {}),
    "distilled": ("deit", _DISTILLED),
    "class_token_only": ("deit", dict(distilled=True)),
    "distilled_headless": ("deit", dict(distilled=True, num_classes=0)),
    "distilled_wide": ("deit", dict(_DISTILLED, image_size=(32, 80), in_channels=2)),
    "convit": ("convit", _LOCAL),
    "convit_bias": ("convit", dict(_LOCAL, qkv_bias=True, image_size=(32, 64))),
    "convit_without_positions": ("convit", dict(_LOCAL, positions=False)),
    "vit": ("vit", {}),
    "vit_headless": ("vit", dict(num_classes=0)),
    "vit_pooler": ("vit", dict(num_classes=0, pooler_width=20)),
    "vit_silu_no_bias": ("vit", dict(activation="silu", qkv_bias=False)),
    "deit3": ("deit", dict(layer_scale=True, token_positions=False)),
    "average": ("vit", dict(pool="avg", fc_norm=True)),
    "average_of_normed": ("vit", dict(pool="avg", registers=1)),
    "gap": ("vit", dict(class_token=False, pool="avg", layer_scale=True, qkv_bias=False)),
    "reg_gap": (
        "vit",
        dict(class_token=False, registers=3, pool="avg", token_positions=False, fc_norm=True,
             layer_scale=True),
    ),
    "pre_norm": ("vit", dict(pre_norm=True, proj_bias=False)),
    "token_fc_norm": ("vit", dict(fc_norm=True)),
    "no_norm": ("vit", dict(final_norm=False, registers=2, token_positions=False)),
    "convit_average": ("convit", dict(_LOCAL, pool="avg")),
}  # fmt: skip
