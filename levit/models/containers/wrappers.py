"""Names of PyTorch's wrappers inside the names of tensors, and networks that it has rewritten.

A wrapper is a module that calls one other and computes nothing: its name is one more component in
the names of the tensors below it, at the front or at any depth.

Sources: torch/_dynamo/eval_frame.py, torch/distributed/fsdp/_common_utils.py,
torch/distributed/algorithms/_checkpoint/checkpoint_wrapper.py, lightning/fabric/wrappers.py,
opacus/grad_sample/gsm_base.py, peft/tuners/tuners_utils.py, peft/utils/other.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from levit.errors import CheckpointError
from levit.models.containers.listing import listing

__all__ = ["clean_names", "rewriting_in"]

T = TypeVar("T")

# No network calls a layer of its own so. `module` is not here: transformers' LeViT does.
_INSIDE: Final = frozenset(
    {
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",  # FullyShardedDataParallel
        "_fpw_module",  # its FlattenParamsWrapper, before PyTorch 2
        "_checkpoint_wrapped_module",  # activation checkpointing and offloading
        "_forward_module",  # Lightning Fabric, and Lightning's DeepSpeed
        "_module",  # Opacus
    }
)
_DATA_PARALLEL: Final = "module."
_LONGEST_NAME: Final = 512

# Components that a rewriting leaves at the end of names, and what undoes it.
_REWRITINGS: Final = (
    (
        ("_flat_param", "flat_param"),
        "flattened by FSDP: save a full state dict (StateDictType.FULL_STATE_DICT)",
    ),
    (
        ("parametrizations",),
        "parametrized (weight or spectral norm, or of your own): call "
        "torch.nn.utils.parametrize.remove_parametrizations before saving",
    ),
    (
        ("weight_g", "weight_v"),
        "under weight norm: call torch.nn.utils.remove_weight_norm before saving",
    ),
    (("weight_mask",), "pruned: call torch.nn.utils.prune.remove before saving"),
    (
        ("weight_u",),
        "under spectral norm: call torch.nn.utils.remove_spectral_norm before saving",
    ),
    (
        ("_packed_params", "weight_fake_quant", "activation_post_process"),
        "quantised by PyTorch, or prepared for it: pass the checkpoint as it was trained",
    ),
    (
        ("SCB", "absmax", "quant_map"),
        "quantised by bitsandbytes: pass the checkpoint as it was trained",
    ),
    (
        ("_data", "_scale"),
        "quantised by optimum-quanto: pass the checkpoint as it was trained",
    ),
    (
        ("base_layer", "original_module", "modules_to_save", "ia3_l"),
        "inside an adapter of peft: call merge_and_unload() before saving",
    ),
)


def clean_names(tensors: Mapping[str, T], file: str) -> dict[str, T]:
    """Take the names of wrappers out of names, as far as they cannot be a network's own.

    ``module.`` goes from the front only, once, as from timm's ``clean_state_dict``.

    ::

        clean_names({"module.blocks.0._orig_mod.norm1.weight": 1}, "m.pth")
        # {"blocks.0.norm1.weight": 1}

    Raises:
        CheckpointError: two tensors are left with one name, or a name is no plain text.
    """
    cleaned: dict[str, T] = {}
    for name, value in tensors.items():
        short = name
        if "_mod" in name or "_module" in name:
            short = ".".join(part for part in name.split(".") if part not in _INSIDE)
        short = short.removeprefix(_DATA_PARALLEL)
        if short in cleaned:
            raise CheckpointError(f"{file}: holds {listing([short])} with and without a prefix")
        if not short.isprintable() or not 0 < len(short) <= _LONGEST_NAME:
            raise CheckpointError(f"{file}: {listing([short])} is no name for a tensor")
        cleaned[short] = value
    return cleaned


def rewriting_in(names: Iterable[str]) -> str | None:
    """Say how PyTorch has rewritten the weights that have these names, or None if it has not.

    ::

        rewriting_in(["head.weight_g", "head.weight_v"])
        # "its head.weight_g is under weight norm: call torch.nn.utils.remove_weight_norm …"
    """
    for name in names:
        parts = name.split(".")
        for signs, words in _REWRITINGS:
            if any(sign in parts for sign in signs):
                return f"its {listing([name])} is {words}"
    return None
