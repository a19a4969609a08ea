"""Names of folders that hold no whole checkpoint, told by their files, and what to do about each.

Sources of the names: transformers/trainer.py, peft/utils/constants.py,
deepspeed/runtime/engine.py and its zero_to_fp32.py, torch/distributed/checkpoint/filesystem.py,
accelerate/utils/constants.py, skorch/callbacks/training.py, huggingface_hub.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from levit.models.containers.listing import listing

__all__ = ["is_training_state", "only_others", "only_parts"]

# What trainers write beside weights, whose suffixes are those of weights.
_TRAINING: Final = (
    *("optimizer.pt", "optimizer.bin", "optimizer_*.bin", "scheduler.pt", "scheduler.bin"),
    *("scaler.pt", "rng_state.pth", "rng_state_*.pth", "training_args.bin", "random_states_*.pkl"),
    *("optimizer.pth", "scheduler.pth", "criterion.pt"),
)
_OTHER_FRAMEWORKS: Final = ("tf_model.h5", "flax_model.msgpack", "saved_model.pb")
# transformers' Trainer, and accelerate's save_state.
_STEP: Final = re.compile(r"checkpoint[-_](\d{1,18})")


def is_training_state(name: str) -> bool:
    """Return True for a file of a trainer's own: optimizer, schedule, random numbers.

    ::

        is_training_state("rng_state_0.pth")  # True
    """
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _TRAINING)


def only_parts(folder: Path, files: Sequence[str], folders: Sequence[str]) -> str | None:
    """Say of which model a folder holds parts, and how to join them: a part of a line.

    ::

        only_parts(Path("run"), ["adapter_model.safetensors"], [])  # "a LoRA adapter, not …"

    Args:
        files, folders: names of what is in it.

    Returns:
        None where nothing in it is such a part.
    """
    steps = [name for name in folders if name.startswith("global_step")]
    if steps and "zero_to_fp32.py" not in files:  # which is there where the weights are in parts
        newest = max(steps, key=lambda name: int(re.sub(r"[^0-9]", "", name) or 0))
        return (
            f"a checkpoint of DeepSpeed; pass the file of the model in it: "
            f"{folder / newest / 'mp_rank_00_model_states.pt'}"
        )
    if steps or "zero_to_fp32.py" in files:
        return (
            "a checkpoint of DeepSpeed, whose weights are in parts; join them with the script in "
            "it: python zero_to_fp32.py . pytorch_model.bin"
        )
    if any(fnmatch.fnmatchcase(name, "*zero_pp_rank_*") for name in files):
        return (
            "a part of a checkpoint of DeepSpeed; join the parts with the script in the folder "
            "above: python zero_to_fp32.py . pytorch_model.bin"
        )
    sharded = next((name for name in folders if name.startswith("pytorch_model_fsdp")), None)
    if sharded is not None or any(name.endswith(".distcp") for name in files):
        where = folder if sharded is None else folder / sharded
        return (
            f"weights in parts of torch.distributed (FSDP); join them: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {where} model.pth"
        )
    if any(name.startswith("adapter_model.") for name in files):
        return (
            "a LoRA adapter, or another of peft, not a whole model: merge it first "
            "(merge_and_unload of peft)"
        )
    return None


def only_others(folder: Path, files: Sequence[str], folders: Sequence[str]) -> str | None:
    """Say what a folder without weights holds in their place: a part of a line.

    ::

        only_others(Path("runs"), [], ["checkpoint-500"])
        # "holds no weights itself but checkpoint-500; pass the newest: runs/checkpoint-500"

    Args:
        files, folders: names of what is in it.

    Returns:
        None where nothing in it is known.
    """
    steps = {int(found[1]): name for name in folders if (found := _STEP.fullmatch(name))}
    if steps:
        names = [steps[number] for number in sorted(steps)]
        newest = folder / names[-1]
        return f"holds no weights itself but {listing(names)}; pass the newest: {newest}"
    return _other_frameworks(files) or _state_only(files) or _only_folders(folders)


def _only_folders(folders: Sequence[str]) -> str | None:
    names = [name for name in folders if not name.startswith(".")]
    if not names:
        return None
    which = "a folder" if len(names) == 1 else "folders"
    return f"holds no weights itself but {which} ({listing(names)}); pass the one that has them"


def _other_frameworks(files: Sequence[str]) -> str | None:
    known = [name for name in files if name in _OTHER_FRAMEWORKS]
    if not known:
        return None
    return (
        f"holds weights of TensorFlow or Flax only ({listing(known)}); load them in transformers 4 "
        f"(from_tf=True or from_flax=True), and save_pretrained"
    )


def _state_only(files: Sequence[str]) -> str | None:
    state = sorted(name for name in files if is_training_state(name))
    if not state:
        return None
    return (
        f"holds the state of a training ({listing(state)}) and no weights; pass the folder or "
        f"file that the model was saved to"
    )
