"""Choice of one model among the weights that a file holds.

A training checkpoint holds several sets: the weights, their average, a teacher. Where nobody says
which (``--weights``), the choice is that of the file's home, and it is said:

- timm's ``load_state_dict`` takes averaged weights before others (timm/models/_helpers.py,
  ``use_ema=True``). That order also finds those of other libraries: mmpretrain saves
  ``state_dict``, and where mmengine's ``EMAHook`` ran, the averaged weights are in ``state_dict``
  already (mmengine/hooks/ema_hook.py, ``_swap_ema_state_dict``); Lightning's
  ``WeightAveraging`` does the same.
- ``main.py`` of facebookresearch/LeViT, of /deit and of /convit resumes and evaluates ``model``,
  beside which it saves ``model_ema``.

``model_state_dict``, which timm's loader does not know, is what PyTorch's own tutorial on saving
calls them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from levit.errors import CheckpointError
from levit.models.bookkeeping import is_bookkeeping, left_out
from levit.models.containers.listing import listing
from levit.models.containers.state_dict import AVERAGED, PLAIN, Selection, WeightSet
from levit.models.containers.wrappers import clean_names
from levit.models.lookalikes import DINO, looks_like
from levit.models.whole_models import WholeModel, find_models

__all__ = ["select"]

_TIMM: Final = (*AVERAGED, *PLAIN)
_ORIGINALS: Final = ("model", "model_ema")
# The name of a model without a prefix, beside others that have one.
_BARE: Final = "."


@dataclass(frozen=True, kw_only=True, eq=False)
class _Choice:
    """A whole model in one of the sets.

    Attributes:
        alone: it is the only model of its set, and nothing else is in there that could be a part
            of it.
        originals: names without those of wrappers → as the file spells them.
    """

    weights: WeightSet
    model: WholeModel
    alone: bool
    originals: dict[str, str]

    @property
    def prefix(self) -> str:
        return self.model.prefix.removesuffix(".")

    @property
    def name(self) -> str:
        """Its name for ``--weights``: a key, a prefix, or both."""
        key = self.weights.key or ""
        if key and (self.alone or not self.prefix):
            return key
        return f"{key}.{self.prefix}".strip(".") or _BARE

    @property
    def spellings(self) -> tuple[str, ...]:
        full = f"{self.weights.key or ''}.{self.prefix}".strip(".")
        return tuple(text for text in (self.name, full, self.prefix) if text)

    @property
    def title(self) -> str:
        return f"{self.name} ({self.model.title})"


def select(sets: Sequence[WeightSet], wanted: str | None, file: str) -> Selection:
    """Choose a whole model, and leave out what training keeps beside it.

    ::

        read_file(Path("checkpoint.pth"), "model_ema", select)

    Args:
        sets: as `weight_sets` finds them.
        wanted: a key (``model_ema``), a prefix of names (``student.``), or both
            (``state_dict.student``).
        file: its name, for messages.

    Raises:
        CheckpointError: there is no such choice, or there are several and nothing says which.
    """
    choices = [choice for weights in sets for choice in _models_of(weights, file)]
    if wanted is not None:
        return _wanted(sets, choices, wanted, file)
    order = _order(choices)
    first = _first(sets, order)
    if first is not None and first.problem:
        names = listing([choice.name for choice in choices])
        raise CheckpointError(
            f"{file}: {first.problem}" + (f"; or say --weights {names}" if names else "")
        )
    chosen = _default(choices, order, file)
    if chosen is None:
        return _unknown(sets, file)
    passed = None if first is None or _holds(first, choices) else first.key
    return _selection(chosen, choices, notes=_why(chosen, choices, passed))


def _models_of(weights: WeightSet, file: str) -> Iterator[_Choice]:
    """Models in a set; none where it cannot be read."""
    if weights.problem:
        return
    try:
        originals = clean_names({name: name for name in weights.entries}, file)
        shapes = _shapes(weights, originals)
        models = find_models(shapes, weights.key, file)
    except CheckpointError:  # said if this set is taken
        return
    models = [model for model in models if not _is_in_bookkeeping(model)]
    for model in models:
        inside = set(model.names.values())
        whole = all(
            name in inside or is_bookkeeping(name, shape, model.prefix)
            for name, shape in shapes.items()
        )
        alone = whole and len(models) == 1
        yield _Choice(weights=weights, model=model, alone=alone, originals=originals)


def _shapes(weights: WeightSet, originals: dict[str, str]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weights.entries[original].shape) for name, original in originals.items()}


def _is_in_bookkeeping(model: WholeModel) -> bool:
    """Return True for a model inside a loss, such as the teacher that it asks."""
    return bool(model.prefix) and is_bookkeeping(f"{model.prefix}x", ())


def _several(group: Sequence[_Choice]) -> str:
    titles = listing([choice.title for choice in group])
    # A teacher has taught the model that is wanted.
    pupils = [choice for choice in group if "teacher" not in choice.name.split(".")]
    advised = (pupils or group)[0].name
    what = ""
    if looks_like(_shapes(group[0].weights, group[0].originals)) == DINO:
        what = f"{DINO}; "
        # Its own evaluations take the teacher (facebookresearch/dino, eval_linear.py).
        advised = next((c.name for c in group if c.name.startswith("teacher")), advised)
    return f"{what}holds several models: {titles}; say which with --weights {advised}"


def _first(sets: Sequence[WeightSet], order: Sequence[str]) -> WeightSet | None:
    """Find the set that the file's home would take."""
    by_key = {weights.key: weights for weights in sets}
    return next((by_key[key] for key in order if key in by_key), None)


def _holds(weights: WeightSet, choices: Sequence[_Choice]) -> bool:
    return any(choice.weights is weights for choice in choices)


def _default(choices: Sequence[_Choice], order: Sequence[str], file: str) -> _Choice | None:
    """Choose as the file's home does; None where no set holds a model."""
    known = [c for key in order for c in choices if c.weights.key == key]
    flat = [c for c in choices if c.weights.key is None]
    for group in ([c for c in known if c.weights is known[0].weights], flat, choices):
        if len(group) > 1:
            raise CheckpointError(f"{file}: {_several(group)}")
        if group:
            return group[0]
    return None


def _order(choices: Sequence[_Choice]) -> Sequence[str]:
    """Keys in the order in which the file's home takes them."""
    if any(choice.weights.key in _ORIGINALS and _is_original(choice) for choice in choices):
        return (*_ORIGINALS, *(key for key in _TIMM if key not in _ORIGINALS))
    return _TIMM


def _is_original(choice: _Choice) -> bool:
    """Return True for names of facebookresearch's own code."""
    return any(keymap.source == "original" for _, keymap in choice.model.matches)


def _why(chosen: _Choice, choices: Sequence[_Choice], passed: str | None) -> tuple[str, ...]:
    """Say what was taken where there was a choice, or where another set was `passed` over."""
    others = [choice.name for choice in choices if choice is not chosen]
    not_taken = (f"not taken: {listing(others)}",) if others else ()
    key, name = chosen.weights.key, chosen.name
    if key in AVERAGED:
        what = f"the averaged ones ({key}), as timm takes them"
    elif passed:
        what = f"{name}, because {passed!r} holds no model that is known"
    elif key == "model" and "model_ema" in others and _is_original(chosen):
        what = f"{name}, which the main.py of facebookresearch evaluates"
    elif others:
        what = name
    else:
        return ()
    return (f"weights: {what}", *not_taken)


def _selection(
    chosen: _Choice,
    choices: Sequence[_Choice],
    *,
    notes: tuple[str, ...] = (),
    explicit: bool = False,
) -> Selection:
    """Keep the model's tensors; beside it leave out bookkeeping, or all if its prefix was named."""
    prefix, weights = chosen.model.prefix, chosen.weights
    inside = set(chosen.model.names.values())
    elsewhere = {
        name
        for choice in choices
        if explicit and not prefix and choice.weights is weights and choice is not chosen
        for name in choice.model.names.values()
    }
    shapes = _shapes(weights, chosen.originals)
    ignores = [keymap.ignores for _, keymap in chosen.model.matches]
    kept: list[str] = []
    out: list[str] = []
    for name, original in chosen.originals.items():
        beside = bool(prefix) and name not in inside
        inner = name if beside else name.removeprefix(prefix)
        if (beside and explicit) or name in elsewhere:
            out.append(name)
        elif is_bookkeeping(inner, shapes[name], prefix if beside else ""):
            # What a keymap ignores anyway is nothing to speak of.
            if beside or not any(ignore(inner) for ignore in ignores):
                out.append(name)
        else:
            kept.append(original)
    said = left_out(out, chosen.name if explicit else "")
    return Selection(
        weights=weights,
        names=kept,
        taken=chosen.name if len(choices) > 1 else "",
        choices=tuple(choice.name for choice in choices) if len(choices) > 1 else (),
        notes=(*notes, *said, *_without_tensors(weights)),
    )


def _without_tensors(weights: WeightSet) -> tuple[str, ...]:
    return (f"left out: {listing(weights.left_out, 3)}",) if weights.left_out else ()


def _wanted(
    sets: Sequence[WeightSet], choices: Sequence[_Choice], wanted: str, file: str
) -> Selection:
    """Take what the user names."""
    wanted = wanted.strip()
    wanted = wanted if wanted == _BARE else wanted.removesuffix(".")
    for spelt in (
        lambda choice: choice.name == wanted,
        lambda choice: wanted in choice.spellings,
        lambda choice: choice.weights.key == wanted,
    ):
        found = [choice for choice in choices if spelt(choice)]
        if len(found) == 1:
            bare_of_several = not (found[0].prefix or found[0].alone)
            explicit = wanted != found[0].weights.key or bare_of_several
            return _selection(found[0], choices, explicit=explicit)
    if found:
        raise CheckpointError(
            f"{file}: several of its weights are called {wanted!r}: "
            f"{listing([choice.title for choice in found])}; say which of them"
        )
    for weights in sets:
        if weights.key == wanted:
            return _unknown([weights], file)
        names = [name for name in weights.entries if name.startswith(f"{wanted}.")]
        if names and not weights.problem:
            return _under_prefix(weights, names, f"{wanted}.")
    names = [choice.name for choice in choices] or [s.key for s in sets if s.key]
    there = f", but {listing(names)}" if names and names != [_BARE] else "; leave out --weights"
    raise CheckpointError(f"{file}: holds no weights called {wanted!r}{there}")


def _under_prefix(weights: WeightSet, names: Sequence[str], prefix: str) -> Selection:
    """Take what lies under a prefix, without training's own: a model that another one holds."""
    shapes = {name: tuple(weights.entries[name].shape) for name in names}
    out = [n for n in names if is_bookkeeping(n.removeprefix(prefix), shapes[n])]
    return Selection(
        weights=weights,
        names=[name for name in names if name not in out],
        notes=(*left_out(out), *_without_tensors(weights)),
    )


def _unknown(sets: Sequence[WeightSet], file: str) -> Selection:
    """Take a set that holds no model of ours, for recognition to say what it looks like."""
    flat = next((weights for weights in sets if weights.key is None), None)
    first = _first(sets, _TIMM) or flat or (sets[0] if len(sets) == 1 else None)
    # Of several, one that cannot be read says what to do about it.
    first = first or next((weights for weights in sets if weights.problem), None)
    if first is None:
        keys = listing([weights.key for weights in sets if weights.key])
        raise CheckpointError(
            f"{file}: holds several sets of tensors ({keys}), none of a network that this "
            f"release knows"
        )
    if first.problem:
        raise CheckpointError(f"{file}: {first.problem}")
    return Selection(weights=first, names=list(first.entries), notes=_without_tensors(first))
