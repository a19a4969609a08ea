"""`--verify source`: our reference against the library that the checkpoint comes from."""

from __future__ import annotations

import functools
import importlib
from collections import OrderedDict
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

import numpy as np

from levit.errors import BackendUnavailableError, ExportError, VerificationError, brief
from levit.export.sources import Source
from levit.export.verify import Golden
from levit.models.model import Keymap, SourceNetwork
from levit.models.ops import Array
from levit.models.random_weights import flatten
from levit.relative_error import relative_error

__all__ = ["compare_with_source", "make_network"]

# Two float64 evaluations of one network differ by the order of their sums only.
_TOLERANCE: Final = 1e-9


def compare_with_source(source: Source, golden: Golden) -> dict[str, Any]:
    """Evaluate the source library's model in float64 on the golden inputs and compare.

    timm and transformers stand for themselves. mmpretrain and the original code cannot be
    installed beside current versions of PyTorch; timm's network, which is the original's with
    other names, takes their weights.

    Returns:
        Library, version, its class with the arguments that made it, and largest relative
        difference, for the manifest.

    Raises:
        BackendUnavailableError: the library is not installed.
        VerificationError: the reference is not the source's function.
    """
    family, config = source.model.family, source.model.config
    describe = family.networks.get(source.keymap.source, next(iter(family.networks.values())))
    wanted = describe(config)
    library = wanted.library
    try:
        importlib.import_module(library)
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise BackendUnavailableError(
            f"--verify source needs {library} and PyTorch: pip install 'levit[peers]'"
        ) from error
    name = "logits" if config.num_classes else wanted.headless_output
    if name not in golden.outputs:
        raise ExportError(f"--verify source compares {name}: add it to --outputs")
    try:
        network = make_network(wanted).eval().double()
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        keymap = next(
            keymap
            for keymap in family.keymaps
            if keymap.source == library and keymap.matches(shapes)
        )
        state = flatten(source.model, keymap)
        _replace_heads(network, keymap, state)
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
    difference = relative_error(found, expected)
    version = metadata.version(library)
    if not difference <= _TOLERANCE:
        raise VerificationError(
            f"the reference differs from {library} {version} by {difference:.1e} of the "
            f"largest value; please report this checkpoint"
        )
    return {
        "library": library,
        "version": version,
        "network": f"{wanted.module}.{wanted.name}",
        "arguments": dict(wanted.arguments),
        "max_relative_error": difference,
    }


def _replace_heads(network: Any, keymap: Keymap, state: Mapping[str, Array]) -> None:
    """Put the classifiers in place that the state is of, where the library has others."""
    from torch import nn

    own = network.state_dict().keys()
    for which, layer in enumerate(keymap.heads):
        for norm in (True, False):
            weight = keymap.head_names(which, norm=norm).weight
            if weight not in state or weight in own:
                continue
            classes, width = state[weight].shape
            head: Any = nn.Linear(width, classes).double()
            if norm:
                head = nn.Sequential(OrderedDict(norm=nn.BatchNorm1d(width).double(), linear=head))
            setattr(network, layer, head.eval())


def _tensor(answer: Any, name: str) -> Any:
    """Timm answers with a tensor, transformers with a record."""
    if not hasattr(answer, "keys"):
        return answer
    names = {"logits": "logits", "embedding": "pooler_output", "features": "last_hidden_state"}
    return answer[names[name]]


def make_network(wanted: SourceNetwork) -> Any:
    """The source library's module, untrained. Needs that library and PyTorch."""
    module = importlib.import_module(wanted.module)
    kind = getattr(module, wanted.name)
    if wanted.config:
        arguments = getattr(module, wanted.config)(**wanted.arguments)
        if wanted.pooler or not wanted.name.endswith(("ViTModel", "DeiTModel")):
            return kind(arguments)
        return kind(arguments, add_pooling_layer=False)
    if wanted.norm_eps is None:
        return kind(**wanted.arguments)
    import torch

    norm = functools.partial(torch.nn.LayerNorm, eps=wanted.norm_eps)
    return kind(**wanted.arguments, norm_layer=norm)


def _normalized(source: Source, inputs: Array) -> Array:
    """Inputs as timm's model takes them: (N, C, H, W) float64."""
    if source.model.plan.pixels is None:
        return inputs.astype(np.float64)
    mean, std = (np.asarray(v).reshape(-1, 1, 1) for v in source.model.plan.pixels)
    normalized: Array = (np.moveaxis(inputs, -1, 1) / 255.0 - mean) / std
    return normalized
