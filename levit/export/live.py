"""A live network of timm, transformers or mmpretrain → a checkpoint, as if it had been saved.

Nothing is imported for it: a module of PyTorch is known by what it can do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from levit.errors import CheckpointError, ConfigError, brief
from levit.models.checkpoint import Checkpoint, checked_checkpoint
from levit.models.hints import Hints, hints_from_config
from levit.models.ops import Array

__all__ = ["read_module"]

_NAME: Final = "the model"
# What DataParallel, DistributedDataParallel and torch.compile keep the network under.
_WRAPPED: Final = ("_orig_mod", "module")
_ACTIVATIONS: Final = {"Hardswish": "hard_swish", "SiLU": "silu", "GELU": "gelu"}


def read_module(module: Any) -> Checkpoint:
    """The weights of a ``torch.nn.Module`` and what it says of itself.

    Args:
        module: of timm (its ``pretrained_cfg`` is read), of transformers (its ``config``), or of
            mmpretrain; wrapped by ``torch.compile`` or ``DataParallel`` or not, on any device, in
            any floating type. It is not changed.

    Raises:
        ConfigError: it is no module, or its config says what cannot be built.
        CheckpointError: its weights cannot be read, or are not finite.
    """
    if not callable(getattr(module, "state_dict", None)) or isinstance(module, type):
        raise ConfigError(
            f"model is a torch.nn.Module of timm, transformers or mmpretrain, not {module!r:.80}"
        )
    inner = module
    while (name := next((n for n in _WRAPPED if hasattr(inner, n)), None)) is not None:
        inner = getattr(inner, name)
    try:
        tensors = {str(name): _array(value) for name, value in module.state_dict().items()}
    except ConfigError:
        raise
    except Exception as error:  # of PyTorch, which has no base class of its own
        raise CheckpointError(f"{_NAME}: its weights cannot be read ({brief(error)})") from error
    kind = type(inner)
    origin = {"file": _NAME, "module": f"{kind.__module__}.{kind.__qualname__}"}
    return checked_checkpoint(tensors, _hints(inner), origin, _NAME)


def _array(value: Any) -> Array:
    """A tensor as NumPy has it; half types widened to float32."""
    if getattr(value, "is_meta", False):
        raise CheckpointError(f"{_NAME}: it stands on the meta device and has no weights")
    tensor = value.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    array: Array = np.asarray(tensor.numpy())
    return array


def _hints(module: Any) -> Hints:
    config: Any = getattr(module, "config", None)
    if callable(getattr(config, "to_dict", None)):
        values = {**config.to_dict(), "architectures": [type(module).__name__]}
        return hints_from_config(values, f"{_NAME}'s config")
    pretrained = getattr(module, "pretrained_cfg", None)
    if isinstance(pretrained, Mapping):
        return hints_from_config(_timm_values(module, pretrained), f"{_NAME}'s pretrained_cfg")
    return Hints()


def _timm_values(module: Any, pretrained: Mapping[str, Any]) -> dict[str, Any]:
    """What timm writes beside a checkpoint, and what of its arguments the module can tell."""
    values: dict[str, Any] = {"pretrained_cfg": dict(pretrained)}
    if isinstance(pretrained.get("architecture"), str):
        values["architecture"] = pretrained["architecture"]
    arguments: dict[str, Any] = {}
    for part in module.modules():
        name = type(part).__name__
        if name == "LayerNorm" and hasattr(part, "eps"):
            arguments.setdefault("norm_eps", float(part.eps))
        if isinstance(getattr(part, "num_heads", None), int) and hasattr(module, "cls_token"):
            arguments.setdefault("num_heads", part.num_heads)
    # One for all but LeViT's attention, which may have another.
    kinds = [_ACTIVATIONS.get(name, name) for name in _activations(module)]
    if kinds:
        arguments["act_layer"] = kinds[-1]
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if isinstance(size, (tuple, list)):
        arguments["img_size"] = list(size)
    if hasattr(module, "cls_token") and isinstance(getattr(module, "global_pool", None), str):
        arguments["global_pool"] = module.global_pool
    return {**values, "model_args": arguments}


def _activations(module: Any) -> Iterator[str]:
    """Classes of the activations, in order; timm calls them ``act`` wherever they stand."""
    for name, part in module.named_modules():
        if name.rpartition(".")[2] == "act":
            yield type(part).__name__
