"""Image modes of models: what the channels of the input are, with a mean and deviation for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from levit.errors import ConfigError
from levit.pictures.modes import MODES, default_mode
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["checked_mode", "choose_image_mode", "with_image_mode"]

_COLOURS = MODES["RGB"].channels


def choose_image_mode(wanted: str | None, channels: int) -> str | None:
    """Choose the image mode of a model; None where it takes tensors only.

    ::

        choose_image_mode(None, 1)    # "L"

    Args:
        wanted: the user's choice, or None.
        channels: of the model's input.

    Raises:
        ConfigError: the mode has another number of channels.
    """
    return default_mode(channels) if wanted is None else checked_mode(wanted, channels)


def checked_mode(mode: str, channels: int) -> str:
    """Return a mode that has as many channels as the model.

    Raises:
        ConfigError: it has others.
    """
    if MODES[mode].channels == channels:
        return mode
    fitting = [name for name, other in MODES.items() if other.channels == channels]
    advice = f"take {' or '.join(map(repr, fitting))}" if fitting else "leave it out"
    raise ConfigError(
        f"image mode {mode!r} has {_channels(MODES[mode].channels)}, and the model takes "
        f"{channels}: {advice}"
    )


def with_image_mode(
    spec: PreprocessSpec,
    mode: str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[PreprocessSpec, tuple[str, ...]]:
    """Give a spec its image mode and the user's statistics, and say what had to be assumed.

    Those of three colours stand for another number of channels by their average, as in timm's
    loader.

    Args:
        mean, std: what the user has said: one value for all channels, or one for each; or None.

    Raises:
        ConfigError: there is another number of values than of channels.
    """
    channels = MODES[mode].channels
    values, averaged = {}, []
    for name, said in (("mean", mean), ("std", std)):
        if said is not None:
            values[name] = _for_each(said, channels, name)
            continue
        values[name] = _adapted(getattr(spec, name), channels, name)
        if len(set(getattr(spec, name))) > 1 and channels != len(getattr(spec, name)):
            averaged.append(f"{name} {values[name][0]:g}")
    spec = replace(spec, image_mode=mode, mean=values["mean"], std=values["std"])
    if not averaged:
        return spec, ()
    words = f"averaged over the colours, as timm's loader does for {_channels(channels)}"
    return spec, (f"{', '.join(averaged)}: {words}",)


def _for_each(values: Sequence[float], channels: int, name: str) -> tuple[float, ...]:
    """Repeat one value for all channels."""
    if len(values) not in (1, channels):
        raise ConfigError(
            f"{name} has {len(values)} values, and the model {_channels(channels)}: give one value "
            f"for all channels, or one for each"
        )
    return tuple(map(float, values)) * (channels if len(values) == 1 else 1)


def _adapted(values: Sequence[float], channels: int, name: str) -> tuple[float, ...]:
    """Average three colours for another number of channels.

    Source: ``timm.data.loader.adapt_to_chs``.
    """
    if len(values) == channels:
        return tuple(values)
    if len(values) != _COLOURS:
        raise ConfigError(
            f"{name} has {len(values)} values, and the model {_channels(channels)}: pass --mean "
            f"and --std"
        )
    same = len(set(values)) == 1
    return (values[0] if same else float(np.mean(values)),) * channels


def _channels(count: int) -> str:
    return f"{count} channel{'' if count == 1 else 's'}"
