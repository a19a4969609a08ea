"""A live network of timm, transformers or mmpretrain → a checkpoint, as if it had been saved.

Nothing is imported for it: a module of PyTorch is known by what it can do.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from levit.errors import CheckpointError, ConfigError, brief
from levit.models.checkpoint import Checkpoint, checked_checkpoint
from levit.models.containers.contents import Contents
from levit.models.hints import Hints, hints_from_config
from levit.models.model import Model
from levit.models.ops import Array, NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.relative_error import relative_error

__all__ = ["prove_module", "read_module"]

# Some attentions of transformers take their softmax in float32, whatever the rest is in. Another
# epsilon shows above 1e-3, another activation or pooling above 1e-2.
_TOLERANCE: Final = 1e-5

_NAME: Final = "the model"
# Names under which DataParallel, DistributedDataParallel and torch.compile keep the network.
_WRAPPED: Final = ("_orig_mod", "module")
_ACTIVATIONS: Final = {"Hardswish": "hard_swish", "SiLU": "silu", "GELU": "gelu"}


def read_module(module: Any) -> Checkpoint:
    """Read the weights of a ``torch.nn.Module`` and its config.

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
    inner = _unwrapped(module)
    try:
        tensors = {str(name): _array(value) for name, value in module.state_dict().items()}
    except ConfigError:
        raise
    except Exception as error:  # of PyTorch, which has no base class of its own
        raise CheckpointError(f"{_NAME}: its weights cannot be read ({brief(error)})") from error
    kind = type(inner)
    origin = {"file": _NAME, "module": f"{kind.__module__}.{kind.__qualname__}"}
    contents = Contents(tensors=tensors, origin=origin)
    return checked_checkpoint(contents, _hints(inner), _NAME)


def _unwrapped(module: Any) -> Any:
    while (name := next((n for n in _WRAPPED if hasattr(module, n)), None)) is not None:
        module = getattr(module, name)
    return module


def prove_module(module: Any, model: Model) -> None:
    """Compare the reference with the module itself, on two pictures in float64.

    Names and shapes of weights do not say what a live network does with them: its activation,
    epsilon, heads, pooling, or a block of somebody's own.

    Args:
        model: as read from the module, at its own image size.

    Raises:
        ConfigError: the module cannot be evaluated, or is another function.
    """
    torch = importlib.import_module("torch")
    config = model.config
    rng = np.random.default_rng(20201022)
    inputs = standardized(smooth_pictures(rng, 2, config.image_size, config.in_channels))
    name = "logits" if config.num_classes else "embedding"
    try:
        twin = copy.deepcopy(_unwrapped(module)).cpu().double()
        twin.train()  # some keep tables of an evaluation, which this drops
        twin.eval()
        with torch.no_grad():
            answer = twin(torch.from_numpy(inputs).double())
        if hasattr(answer, "keys"):  # of transformers
            name = name if name in answer else "features"
            answer = answer["logits" if name == "logits" else "last_hidden_state"]
        answer = answer[-1] if isinstance(answer, (tuple, list)) else answer
        found = answer.numpy()
    except Exception as error:  # whatever a module of somebody's own raises
        raise ConfigError(
            f"{_NAME} cannot be evaluated, so that what is exported could be another function "
            f"({brief(error)}); save its weights and export them with checkpoint="
        ) from error
    expected = model.with_plan(outputs=(name,)).forward(NumpyOps(), inputs)[name]
    if found.shape != expected.shape and found.ndim == 4:  # a feature map of mmpretrain
        found = found.mean(axis=(2, 3))
    difference = np.inf
    if found.shape == expected.shape:
        difference = relative_error(found, expected)
    if not difference <= _TOLERANCE:
        raise ConfigError(
            f"{_NAME} is another function than the {model.family.title} that its weights are "
            f"named as: its {name} differ by {difference:.1e} of the largest; an activation, "
            f"epsilon, pooling, number of heads or block of its own is not supported"
        )


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
    """Values that timm writes beside a checkpoint, and arguments that the module can tell."""
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
    # One for all but LeViT's attention, which may have another in front of its projection.
    for name, kind in _activations(module):
        key = "attn_act_layer" if name.endswith("proj.act") else "act_layer"
        arguments[key] = _ACTIVATIONS.get(kind, kind)
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if isinstance(size, (tuple, list)):
        arguments["img_size"] = list(size)
    if hasattr(module, "cls_token"):
        arguments |= _token_arguments(module)
    return {**values, "model_args": arguments}


def _token_arguments(module: Any) -> dict[str, Any]:
    """Arguments of timm's vision transformers that their weights do not show."""
    found: dict[str, Any] = {}
    for name, kind in (
        ("global_pool", str),
        ("no_embed_class", bool),
        ("pool_include_prefix", bool),
    ):
        value = getattr(module, name, None)
        if isinstance(value, kind):
            found[name] = value
    norms = [type(getattr(module, name, None)).__name__ for name in ("norm", "fc_norm")]
    if norms == ["Identity", "Identity"]:
        found["final_norm"] = False
    return found


def _activations(module: Any) -> Iterator[tuple[str, str]]:
    """(name, class) of the activations, in order; timm calls them ``act`` wherever they stand."""
    for name, part in module.named_modules():
        if name.rpartition(".")[2] == "act":
            yield name, type(part).__name__
