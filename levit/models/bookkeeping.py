"""Tensors that only training uses: losses, metrics, counters of an average, the mask token.

Only what is known by its name is here. Anything else beside a model may be a part of it, such as
a classifier that a framework keeps next to the backbone, and is never left out silently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from levit.models.containers.listing import listing

__all__ = ["is_bookkeeping", "left_out"]

# First components of names, beside a model's own. A loss may hold tensors of its own (weights of
# classes, a teacher), as a metric of torchmetrics does (its confusion matrix).
_KINDS: Final = re.compile(
    r"(?:\w+_)?(?:loss|losses|loss_fn|loss_func|loss_function|criterion|criteria)"
    r"|(?:\w+_)?(?:metric|metrics|acc|acc_best|acc1|acc5|accuracy|f1|auroc|confmat|top1|top5)"
    r"|(?:\w+_)?(?:optimizer|optimizers|scheduler|schedulers|lr_scheduler|grad_scaler)"
)
# Single numbers: of torch.optim.swa_utils.AveragedModel, ema-pytorch, and their like.
_COUNTERS: Final = frozenset(
    {"n_averaged", "num_updates", "initted", "step", "steps", "epoch", "global_step", "decay"}
)
# In place of patches that are hidden in pretraining (BEiT, DINOv2, transformers' ViTModel); with
# all patches in sight it is not used, and timm's loader leaves it out.
_MASK: Final = "mask_token"


def is_bookkeeping(name: str, shape: tuple[int, ...], prefix: str = "") -> bool:
    """Return True for a tensor of training's own, in or beside a model under `prefix`.

    ::

        is_bookkeeping("net.criterion.weight", (10,), "net.model.")  # True

    Args:
        name: of the tensor, without names of wrappers.
        shape: of the tensor.
        prefix: of the model's names, with the dot.
    """
    # What both have in front is the name of what holds both.
    parts = name.split(".")
    if parts[-1] == _MASK:
        return True
    for part in prefix.split("."):
        if len(parts) == 1 or parts[0] != part:
            break
        parts = parts[1:]
    if len(parts) == 1:
        return parts[0] in _COUNTERS and shape in ((), (1,))
    return _KINDS.fullmatch(parts[0]) is not None


def left_out(names: Sequence[str], beside: str = "") -> tuple[str, ...]:
    """Say which tensors were left out, for the manifest.

    ::

        left_out(["criterion.weight"])  # ("left out: 1 tensor (criterion.weight)",)
    """
    if not names:
        return ()
    number = "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
    where = f" beside {beside}" if beside else ""
    return (f"left out: {number}{where} ({listing(names, 3)})",)
