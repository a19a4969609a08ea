"""Choice of the part of a saved object that holds the weights; prefixes of wrappers are taken off.

Averaged weights come first, as in timm's ``load_state_dict`` (timm/models/_helpers.py,
``use_ema=True``). That order also finds the weights of other libraries:

- facebookresearch/LeViT saves ``model`` and ``model_ema``;
- mmpretrain saves ``state_dict``; where mmengine's ``EMAHook`` ran, the averaged weights are in
  ``state_dict`` already and ``ema_state_dict`` holds the plain ones
  (mmengine/hooks/ema_hook.py, ``_swap_ema_state_dict``), so ``ema_state_dict`` is not read;
- transformers and ``torch.save(model.state_dict())`` save the tensors by name and nothing else.

``model_state_dict``, which timm's loader does not know, is what PyTorch's own tutorial on saving
calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from levit.errors import CheckpointError
from levit.models.containers.restricted_pickle import Global, Inert

__all__ = ["AVERAGED", "PLAIN", "choose_state_dict", "clean_names", "listing"]

T = TypeVar("T")

AVERAGED: Final = ("state_dict_ema", "model_ema")
PLAIN: Final = ("state_dict", "model", "model_state_dict")

# Prefixes of DistributedDataParallel and torch.compile, in timm's order: they may be nested.
_WRAPPERS: Final = ("_orig_mod.", "module.", "_orig_mod.")
_LISTED: Final = 12
_LONGEST_NAME: Final = 512


def choose_state_dict(
    saved: object, is_tensor: Callable[[object], bool], file: str
) -> tuple[dict[str, object], str | None]:
    """Choose the tensors by name in the object that a ``.pth`` holds.

    Example::

        tensors, key = choose_state_dict({"model": state, "epoch": 3}, torch.is_tensor, "a.pth")

    Args:
        saved: the object that was saved: dicts, and tensors that `is_tensor` knows.
        is_tensor: tells a tensor from other values.
        file: its name, for messages.

    Returns:
        (tensors by name; the key under which they were, or None if they stood alone).

    Raises:
        CheckpointError: there are none, or other things are between them.
    """
    if not isinstance(saved, Mapping):
        raise CheckpointError(
            f"{file}: holds {_kind(saved, is_tensor)}, not tensors by name; save model.state_dict()"
        )
    key = _key(saved, is_tensor)
    found = saved if key is None else saved[key]
    where = "" if key is None else f" under {key!r}"
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{file}: holds {_kind(found, is_tensor)}{where}, not tensors by name; save "
            f"model.state_dict()"
        )
    # An attribute of torch's state dicts, which some copy into them.
    entries = {name: value for name, value in found.items() if name != "_metadata"}
    others = [
        f"{name if isinstance(name, str) else 'a key'} ({_kind(value, is_tensor)})"
        for name, value in entries.items()
        if not (isinstance(name, str) and is_tensor(value))
    ]
    said = listing(list(dict.fromkeys(others)))  # keys that are no text look alike
    if len(others) == len(entries) and key is None:
        raise CheckpointError(
            f"{file}: holds no tensors by name{f' but {said}' if said else ''}; save "
            f"{{'model': model.state_dict()}}"
        )
    if others:
        raise CheckpointError(
            f"{file}: there are other things than tensors{where}: {said}; take them out and save "
            f"it again"
        )
    return entries, key


def _key(saved: Mapping[object, object], is_tensor: Callable[[object], bool]) -> str | None:
    # timm stops at a network with a tensor of such a name; here that one is like any other.
    there = [key for key in (*AVERAGED, *PLAIN) if key in saved and not is_tensor(saved[key])]
    return next((key for key in there if key in PLAIN or saved[key] is not None), None)


def clean_names(tensors: Mapping[str, T], file: str) -> dict[str, T]:
    """Take the prefixes of wrappers off names, as timm's ``clean_state_dict`` does.

    Raises:
        CheckpointError: two tensors are left with one name, or a name is no plain text.
    """
    cleaned: dict[str, T] = {}
    for name, value in tensors.items():
        short = name
        for wrapper in _WRAPPERS if name.startswith(_WRAPPERS) else ():
            short = short.removeprefix(wrapper)
        if short in cleaned:
            raise CheckpointError(f"{file}: holds {listing([short])} with and without a prefix")
        if not short.isprintable() or not 0 < len(short) <= _LONGEST_NAME:
            raise CheckpointError(f"{file}: {listing([short])} is no name for a tensor")
        cleaned[short] = value
    return cleaned


def listing(names: list[str]) -> str:
    """List the first of these names in one printable line."""
    shown = [name if len(name) <= 100 else f"{name[:100]}…" for name in names[:_LISTED]]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(name if name.isprintable() else ascii(name) for name in shown) + more


def _kind(value: object, is_tensor: Callable[[object], bool]) -> str:
    if is_tensor(value):
        return "a tensor"
    if isinstance(value, (Inert, Global)):
        return _UNUSABLE.get(value.name) or listing([value.name])
    return "None" if value is None else type(value).__name__.strip("_").lower()


_UNUSABLE: Final = {
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a subclass",
    "numpy.core.multiarray._reconstruct": "a NumPy array",
    "numpy._core.multiarray._reconstruct": "a NumPy array",
    "numpy.core.multiarray.scalar": "a NumPy number",
    "numpy._core.multiarray.scalar": "a NumPy number",
}
