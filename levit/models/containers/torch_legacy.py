"""Checkpoints from before PyTorch's zip format, read by its own restricted loader or not at all.

Until version 1.6 ``torch.save`` wrote pickles one after the other, and in the first versions a
tar file. ``torch.load(weights_only=True)`` reads the former; up to PyTorch 2.5 it could be made
to run code all the same (CVE-2025-32434), so those are not asked.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any, Final

from levit.errors import CheckpointError, brief
from levit.models.containers.said import Said, stated_values
from levit.models.containers.state_dict import Choose, Selection, weight_sets
from levit.models.ops import Array

__all__ = ["is_legacy_pickle", "is_legacy_tar", "read_legacy", "refuse_tar"]

_OLDEST: Final = (2, 6)
# pickle.dumps(0x1950a86a20f9469cfc6c) but for its second byte, the protocol.
_MAGIC: Final = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_CONVERT: Final = (
    "where you trust the file, convert it: torch.save(torch.load(old, weights_only=False), new)"
)


def is_legacy_pickle(head: bytes) -> bool:
    """Tell a file of PyTorch before 1.6 by its first bytes."""
    return head[:1] == b"\x80" and head[2 : 2 + len(_MAGIC)] == _MAGIC


def is_legacy_tar(head: bytes) -> bool:
    """Tell a tar file by its first bytes."""
    return head[257:262] == b"ustar"


def refuse_tar(file: Path) -> CheckpointError:
    """Make the error for a tar file."""
    return CheckpointError(
        f"{file}: a tar file, as the first versions of PyTorch wrote, which cannot be read "
        f"safely; {_CONVERT}"
    )


def read_legacy(
    file: Path, wanted: str | None, choose: Choose
) -> tuple[dict[str, Array], Selection, Said]:
    """Read tensors by name, say which of the file's they are, and what stands beside them.

    Args:
        wanted: key of the weights to take, where the file holds several sets.
        choose: chooses among the sets.

    Raises:
        CheckpointError: PyTorch 2.6 or newer is missing, or it refuses the file.
    """
    try:
        import torch
    except (ImportError, OSError) as error:  # missing, or without its libraries
        raise CheckpointError(
            f"{file}: in PyTorch's format from before 1.6, which needs PyTorch 2.6 or newer: pip "
            f"install 'levit[peers]'; or {_CONVERT}"
        ) from error
    if _version(torch.__version__) < _OLDEST:
        raise CheckpointError(
            f"{file}: in PyTorch's format from before 1.6, which is safe to read with PyTorch 2.6 "
            f"or newer (CVE-2025-32434), and this is {brief(Exception(torch.__version__))}: "
            f"pip install -U torch"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # From memory, because of a file Python allocates what a pickle claims to be there.
            data = io.BytesIO(file.read_bytes())
            saved = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # its own errors, pickle's, struct's, the system's
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        if unsafe is not None:
            raise CheckpointError(
                f"{file}: in PyTorch's format from before 1.6 and holds {unsafe[1]}, which "
                f"PyTorch does not load safely; {_CONVERT}"
            ) from error
        raise CheckpointError(
            f"{file}: PyTorch cannot read it ({brief(error)}); download or save it again"
        ) from error
    selection = choose(weight_sets(saved, torch.is_tensor, str(file)), wanted, str(file))
    entries = selection.weights.entries
    tensors = {name: _array(entries[name], name, file) for name in selection.names}
    return tensors, selection, stated_values(saved, str(file))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", str(text))[:2])


def _array(tensor: Any, name: str, file: Path) -> Array:
    try:
        tensor = tensor.detach()
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
        array: Array = tensor.contiguous().numpy()
    except Exception as error:  # quantised, sparse, of a dtype that NumPy lacks
        raise CheckpointError(
            f"{file}: {name} cannot be used ({brief(error)}); save it as float32"
        ) from error
    return array
