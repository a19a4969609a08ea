"""`--verify source`: our reference against the library that the checkpoint comes from."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Final

import numpy as np

from levit.errors import BackendUnavailableError, ExportError, VerificationError, brief
from levit.export.sources import Source
from levit.export.verify import Golden
from levit.models.levit.config import BlockConfig, LevitConfig
from levit.models.ops import Array
from levit.models.random_weights import flatten

__all__ = ["compare_with_source", "timm_arguments", "transformers_arguments"]

# Two float64 evaluations of one network differ by the order of their sums only.
_TOLERANCE: Final = 1e-9

_STEMS: Final = {4: "s16", 3: "s8"}


def compare_with_source(source: Source, golden: Golden) -> dict[str, Any]:
    """Evaluate the source library's model in float64 on the golden inputs and compare.

    timm and transformers stand for themselves. mmpretrain and the original code cannot be
    installed beside current versions of PyTorch; timm's network, which is the original's with
    other names, takes their weights.

    Returns:
        Library, version and largest relative difference, for the manifest.

    Raises:
        BackendUnavailableError: the library is not installed.
        VerificationError: the reference is not the source's function.
    """
    library, build = _LIBRARIES.get(source.keymap.source, _LIBRARIES["timm"])
    try:
        importlib.import_module(library)
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise BackendUnavailableError(
            f"--verify source needs {library} and PyTorch: pip install 'levit[peers]'"
        ) from error
    config: LevitConfig = source.model.config
    name = "logits" if config.num_classes else "embedding"
    if name not in golden.outputs:
        raise ExportError(f"--verify source compares {name}: add it to --outputs")
    try:
        network, keymap = build(source)
        network = network.eval().double()
        state = flatten(source.model, keymap)
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}
        loaded = network.load_state_dict(tensors, strict=False)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"{library} cannot build this model ({brief(error)}): leave out --verify source"
        ) from error
    odd = [*loaded.unexpected_keys, *(k for k in loaded.missing_keys if "num_batches" not in k)]
    if odd:
        raise VerificationError(
            f"{library}'s model does not take these weights: {', '.join(odd[:5])}"
        )
    with torch.no_grad():
        answer = network(torch.from_numpy(_normalized(source, golden.inputs)))
    expected = _tensor(answer, name).numpy()
    found = golden.outputs[name]
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    version = metadata.version(library)
    if not difference <= _TOLERANCE:
        raise VerificationError(
            f"the reference differs from {library} {version} by {difference:.1e} of the "
            f"largest value; please report this checkpoint"
        )
    return {"library": library, "version": version, "max_relative_error": difference}


def _tensor(answer: Any, name: str) -> Any:
    """Timm answers with a tensor, transformers with a record."""
    if not hasattr(answer, "keys"):
        return answer
    return answer["logits"] if name == "logits" else answer["pooler_output"]


def _timm(source: Source) -> tuple[Any, Any]:
    """(network, keymap)."""
    import timm

    config: LevitConfig = source.model.config
    distilled = "LevitDistilled" if config.distilled else "Levit"
    network = getattr(timm.models.levit, distilled)(**timm_arguments(config))
    return network, next(k for k in source.model.family.keymaps if k.conv == config.conv)


def _transformers(source: Source) -> tuple[Any, Any]:
    """(network, keymap)."""
    import transformers

    config: LevitConfig = source.model.config
    if not config.num_classes:
        name = "LevitModel"
    else:
        name = "LevitForImageClassification" + "WithTeacher" * config.distilled
    arguments = transformers.LevitConfig(**transformers_arguments(config))
    network = getattr(transformers, name)(arguments)
    prefix = "" if name == "LevitModel" else "levit."
    keymaps = source.model.family.keymaps
    return network, next(k for k in keymaps if (k.source, k.prefix) == ("transformers", prefix))


_LIBRARIES: Final[Mapping[str, tuple[str, Callable[[Source], tuple[Any, Any]]]]] = {
    "timm": ("timm", _timm),
    "transformers": ("transformers", _transformers),
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


def transformers_arguments(config: LevitConfig) -> dict[str, Any]:
    """The arguments that make transformers' ``LevitConfig`` this model.

    Raises:
        ExportError: transformers cannot build it.
    """
    height, width = config.image_size
    if height != width or len(config.stem_widths) != 4 or config.activation != "hard_swish":
        raise ExportError("transformers has LeViTs of square images, stride 16 and hard_swish only")
    blocks = [stage.block for stage in config.stages if stage.block is not None]
    if len(blocks) != len(config.stages) or len(config.stages) != 3:
        raise ExportError("transformers has LeViTs of three stages, none empty, only")
    return {
        "image_size": height,
        "num_channels": config.in_channels,
        "hidden_sizes": [stage.width for stage in config.stages],
        "num_attention_heads": [block.heads for block in blocks],
        "depths": [stage.depth for stage in config.stages],
        "key_dim": [block.key_dim for block in blocks],
        "attention_ratio": [block.value_dim // block.key_dim for block in blocks],
        "mlp_ratio": [
            block.mlp_width // stage.width
            for block, stage in zip(blocks, config.stages, strict=True)
        ],
        "num_labels": config.num_classes,
    }
