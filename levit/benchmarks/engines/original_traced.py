"""The authors' own code, called as their ``speed_test.py`` calls it.

Needs a clone of facebookresearch/LeViT, named by the environment variable
``LEVIT_ORIGINAL_REPO``. The network is theirs, the weights are timm's under their names.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.peer import Peer
from levit.benchmarks.engines.timm_networks import TRACED, open_transform, traced
from levit.errors import BackendUnavailableError, ConfigError
from levit.models.levit import FAMILY
from levit.models.model import Model, Plan
from levit.models.random_weights import flatten

__all__ = ["ORIGINAL", "VARIABLE"]

VARIABLE: Final = "LEVIT_ORIGINAL_REPO"


def _open_runner(job: Job) -> Runner:
    """Fold by the authors' own function, and trace on the batch.

    Raises:
        BackendUnavailableError: the clone is not where the variable says, or not named.
        ConfigError: the model is none of the authors'.
    """
    import torch

    original, tools = _original()
    name = job.model.replace("levit_", "LeViT_").replace("s", "S")
    if job.model not in FAMILY.variants or not hasattr(original, name):
        raise ConfigError(f"{job.model} is not in facebookresearch/LeViT; leave out this engine")
    torch.set_num_threads(job.threads)

    def fold(net: Any, _: Any) -> Any:
        # Its table of biases is looked up on leaving training mode: after loading.
        net.train().eval()
        tools.replace_batchnorm(net)
        return net.eval()

    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        net = getattr(original, name)(num_classes=1000)
        net.load_state_dict(_weights(job), strict=False)
    return traced(net, fold, job)


def _original() -> tuple[Any, Any]:
    """(levit.py, utils.py) of the clone; by path, for the first has our package's name."""
    clone = os.environ.get(VARIABLE)
    if not clone or not (Path(clone) / "levit.py").is_file():
        raise BackendUnavailableError(
            f"the authors' own code is not here; clone github.com/facebookresearch/LeViT and set "
            f"{VARIABLE} to its folder"
        )
    # Theirs is imported as `utils` by their levit.py.
    tools = _module("utils", Path(clone) / "utils.py")
    return _module("original_levit", Path(clone) / "levit.py"), tools


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its decorators look the module up by name.
    sys.modules[name] = module
    with warnings.catch_warnings(action="ignore"):
        spec.loader.exec_module(module)
    return module


class _Tensors:
    """The prepared weights, for the family's ``build``."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self._arrays = arrays

    def tensor(self, key: str, shape: tuple[int, ...]) -> Any:
        return self._arrays[key].reshape(shape)

    def constant(self, key: str, value: Any) -> None:
        pass


def _weights(job: Job) -> dict[str, Any]:
    """The prepared weights under the authors' names."""
    import safetensors.numpy
    import torch

    config = FAMILY.variants[job.model].config
    arrays = safetensors.numpy.load_file(job.files / "weights.safetensors")
    theirs = {k.source: k for k in FAMILY.keymaps if k.conv == config.conv}
    params = FAMILY.build(config, theirs["timm"], _Tensors(arrays))
    model = Model(FAMILY, config, params, Plan(outputs=FAMILY.outputs(config)[:1]))
    return {k: torch.from_numpy(v) for k, v in flatten(model, theirs["original"]).items()}


# The authors publish nothing that classifies one picture: timm's script stands for theirs.
ORIGINAL: Final = Peer(
    open_runner=_open_runner, open_transform=open_transform, script=TRACED.script
)
