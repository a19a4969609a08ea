"""`--verify source`: our reference against the library that the checkpoint comes from."""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final

import numpy as np

from levit.errors import BackendUnavailableError, ExportError, VerificationError, brief
from levit.export.sources import Source
from levit.export.verify import Golden
from levit.models.levit.config import BlockConfig, LevitConfig
from levit.models.ops import Array
from levit.models.random_weights import flatten

__all__ = ["compare_with_source", "timm_arguments"]

# Two float64 evaluations of one network differ by the order of their sums only.
_TOLERANCE: Final = 1e-9

_STEMS: Final = {4: "s16", 3: "s8"}


def compare_with_source(source: Source, golden: Golden) -> dict[str, Any]:
    """Evaluate timm's model in float64 on the golden inputs and compare.

    Returns:
        Library, version and largest relative difference, for the manifest.

    Raises:
        BackendUnavailableError: timm is not installed.
        VerificationError: the reference is not the source's function.
    """
    try:
        import timm
        import torch
    except ImportError as error:
        raise BackendUnavailableError(
            "--verify source needs timm and PyTorch: pip install 'levit[peers]'"
        ) from error
    config: LevitConfig = source.model.config
    distilled = "LevitDistilled" if config.distilled else "Levit"
    keymap = next(k for k in source.model.family.keymaps if k.conv == config.conv)
    state = flatten(source.model, keymap)
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}
    try:
        network = getattr(timm.models.levit, distilled)(**timm_arguments(config)).eval().double()
        loaded = network.load_state_dict(tensors, strict=False)
    except Exception as error:
        raise ExportError(
            f"timm cannot build this model ({brief(error)}): leave out --verify source"
        ) from error
    odd = [*loaded.unexpected_keys, *(k for k in loaded.missing_keys if "num_batches" not in k)]
    if odd:
        raise VerificationError(f"timm's model does not take these weights: {', '.join(odd[:5])}")
    inputs = _normalized(source, golden.inputs)
    with torch.no_grad():
        expected = network(torch.from_numpy(inputs)).numpy()
    name = "logits" if config.num_classes else "embedding"
    if name not in golden.outputs:
        raise ExportError(f"--verify source compares {name}: add it to --outputs")
    found = golden.outputs[name]
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference <= _TOLERANCE:
        raise VerificationError(
            f"the reference differs from timm {timm.__version__} by {difference:.1e} of the "
            f"largest value; please report this checkpoint"
        )
    return {
        "library": "timm",
        "version": metadata.version("timm"),
        "max_relative_error": difference,
    }


def _normalized(source: Source, inputs: Array) -> Array:
    """What timm's model takes: (N, C, H, W) float64."""
    if source.model.plan.pixels is None:
        return inputs.astype(np.float64)
    mean, std = (np.asarray(v).reshape(-1, 1, 1) for v in source.model.plan.pixels)
    normalized: Array = (np.moveaxis(inputs, -1, 1) / 255.0 - mean) / std
    return normalized


def timm_arguments(config: LevitConfig) -> dict[str, Any]:
    """The arguments that make timm's ``Levit`` this model.

    Raises:
        ExportError: timm cannot build it (it derives the downsampling blocks' shapes).
    """
    pairs = [(stage.block, stage.downsample) for stage in config.stages]
    key_dims = {block.key_dim for pair in pairs for block in pair if block is not None}
    if len(key_dims) != 1:
        raise ExportError(f"timm has no LeViT with key widths {sorted(key_dims)} in one model")
    if len(config.stem_widths) not in _STEMS:
        raise ExportError(f"timm has no LeViT with {len(config.stem_widths)} stem convolutions")
    (key_dim,) = key_dims
    # What a stage without blocks is called does not matter.
    nothing = BlockConfig(heads=1, key_dim=key_dim, value_dim=2 * key_dim, mlp_width=2)
    known = [stage.block or nothing for stage in config.stages]
    return {
        "img_size": config.image_size,
        "in_chans": config.in_channels,
        "num_classes": config.num_classes,
        "embed_dim": tuple(stage.width for stage in config.stages),
        "key_dim": key_dim,
        "depth": tuple(stage.depth for stage in config.stages),
        "num_heads": tuple(block.heads for block in known),
        "attn_ratio": tuple(block.value_dim / block.key_dim for block in known),
        "mlp_ratio": tuple(
            block.mlp_width / stage.width for block, stage in zip(known, config.stages, strict=True)
        ),
        "stem_type": _STEMS[len(config.stem_widths)],
        "act_layer": config.activation,
        "attn_act_layer": config.attention_activation,
        "use_conv": config.conv,
    }
