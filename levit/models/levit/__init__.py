"""LeViT (arXiv:2104.01136): the model, once, for the reference and for every graph."""

from __future__ import annotations

from typing import Final

from levit.errors import ConfigError
from levit.models.levit.build import build
from levit.models.levit.config import VARIANTS, LevitConfig
from levit.models.levit.forward import forward
from levit.models.levit.infer import infer_config
from levit.models.levit.keymap import KEYMAPS
from levit.models.levit.random import randomize
from levit.models.model import Family

__all__ = ["FAMILY"]


def outputs(config: LevitConfig) -> tuple[str, ...]:
    """Output names that this config can give, the default first."""
    if not config.num_classes:
        return ("embedding", "features")
    # A single head's logits are `logits`; two heads' are their mean.
    heads = ("logits_head", "logits_dist") if config.distilled else ()
    return ("logits", "embedding", "features", *heads)


def output_layout(config: LevitConfig, name: str) -> tuple[str, tuple[int, ...]]:
    """(layout, shape without the batch) of an output."""
    if name == "features":
        height, width = config.grids[-1]
        if config.conv:
            return "NCHW", (config.width, height, width)
        return "NLC", (height * width, config.width)
    if name == "embedding":
        return "NC", (config.width,)
    if name in ("logits", "logits_head", "logits_dist"):
        return "NC", (config.num_classes,)
    raise ConfigError(f"LeViT has no output {name!r}; it has {', '.join(outputs(config))}")


FAMILY: Final = Family(
    name="levit",
    title="LeViT",
    variants=VARIANTS,
    keymaps=KEYMAPS,
    infer=infer_config,
    build=build,
    forward=forward,
    outputs=outputs,
    output_layout=output_layout,
    config_from_dict=LevitConfig.from_dict,
    randomize=randomize,
)
