"""``meta`` of mmengine's checkpoints (and of mmcv's before): classes, and the config as text.

The config is Python of plain assignments, which `mmengine.Config.pretty_text` writes. It is read as
a syntax tree; a call of anything but ``dict`` makes it unreadable, and nothing is executed.

Source: ``mmengine.runner.Runner.save_checkpoint``, ``mmengine.config.Config.pretty_text``,
mmpretrain's ``ImageClassifier`` and ``configs/levit``.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from typing import Any, Final

from levit.json_values import listed, shown, table, text, whole
from levit.models.stated.statement import Statement

__all__ = ["read_assignments", "read_meta"]

_LONGEST: Final = 1 << 20
_MOST_BRACKETS: Final = 60
# Heads whose scores are a sigmoid a class.
_MULTI_LABEL: Final = ("MultiLabelClsHead", "MultiLabelLinearClsHead")
# mmengine's names of the activation of LeViT's stem.
_HARD_SWISH: Final = ("HSwish", "Hardswish")


def read_meta(meta: Mapping[str, Any]) -> Statement:
    """Translate ``meta``.

    ::

        read_meta({"cfg": "data_preprocessor = dict(mean=[0.0], std=[1.0], to_rgb=True)"})

    Raises:
        TypeError, ValueError: a value is not what it should be.
    """
    values: dict[str, Any] = {}
    dataset = table(meta.get("dataset_meta") or {}, "dataset_meta")
    classes = dataset.get("classes", meta.get("CLASSES"))
    if classes:
        values["label_names"] = [text(name, "classes") for name in listed(classes, "classes")]
    source = meta.get("cfg", meta.get("config"))
    if source is None:
        return Statement(values=values)
    try:
        config = read_assignments(text(source, "cfg"))
    except SyntaxError as error:
        note = f"the config could not be read as plain assignments ({error.msg}): not used"
        return Statement(values=values, notes=(note,))
    model = table(config.get("model") or {}, "model")
    head = table(model.get("head") or {}, "head")
    if head.get("num_classes") is not None:
        values["num_classes"] = whole(head["num_classes"], "num_classes", least=0)
    if head.get("type") in _MULTI_LABEL:
        values["problem_type"] = "multi_label_classification"
    _check_activation(table(model.get("backbone") or {}, "backbone"))
    own = model.get("data_preprocessor") or config.get("data_preprocessor") or {}
    pixels = {
        key: value
        for key, value in table(own, "data_preprocessor").items()
        if key in ("mean", "std", "to_rgb")
    }
    transform, notes = _read_pipeline(config)
    return Statement(values=values, data_preprocessor=pixels, transform=transform, notes=notes)


def _check_activation(backbone: Mapping[str, Any]) -> None:
    """Raise `ValueError` for an activation that is not that of the stem, which has hard-swish."""
    kind = table(backbone.get("act_cfg") or {}, "act_cfg").get("type", _HARD_SWISH[0])
    if str(kind).rpartition(".")[2] not in _HARD_SWISH:
        raise ValueError(
            f"act_cfg of the backbone is {shown(kind)}, and only {_HARD_SWISH[0]} is supported"
        )


def _read_pipeline(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Read the resizing of the pictures that a model is tested on."""
    pipeline = _find_pipeline(config)
    if pipeline is None:
        return {}, ()
    steps = [dict(table(step, "test_pipeline")) for step in listed(pipeline, "test_pipeline")]
    kinds = [step.get("type") for step in steps]
    if kinds != ["LoadImageFromFile", "ResizeEdge", "CenterCrop", "PackInputs"]:
        return {}, (f"a test_pipeline of {shown(kinds)} is not known: mmpretrain's own is assumed",)
    resize = steps[1]
    backend, side = resize.get("backend", "cv2"), resize.get("edge", "short")
    notes: tuple[str, ...] = ()
    if backend != "pillow" or side != "short":
        notes = (
            f"its ResizeEdge of the {shown(side)} edge by {shown(backend)} is not known: Pillow's "
            f"of the short edge is assumed",
        )
    edge = whole(resize.get("scale"), "scale", least=1)
    interpolation = text(resize.get("interpolation", "bilinear"), "interpolation")
    return {"resize_size": (edge, edge), "interpolation": interpolation}, notes


def _find_pipeline(config: Mapping[str, Any]) -> Any:
    for loader in ("test_dataloader", "val_dataloader"):
        dataset = table(config.get(loader) or {}, loader).get("dataset")
        pipeline = table(dataset or {}, "dataset").get("pipeline")
        if pipeline is not None:
            return pipeline
    return config.get("test_pipeline")


def read_assignments(source: str) -> dict[str, Any]:
    """Read ``name = value`` lines of numbers, text, lists, dicts and ``dict(name=value)``.

    ::

        read_assignments("model = dict(depth=2, sizes=[1, -2])")  # {"model": {"depth": 2, …}}

    Raises:
        SyntaxError: it is something else, or too large.
    """
    if len(source) > _LONGEST or _depth(source) > _MOST_BRACKETS:
        raise SyntaxError("too long or too deep")
    found = {}
    for statement in _statements(source):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = _value(value)
            case _:
                raise SyntaxError(f"line {statement.lineno} is no assignment")
    return found


def _statements(source: str) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in text
            return ast.parse(source).body
    except SyntaxError as error:
        where = f"line {error.lineno} is not Python" if error.lineno else "not Python"
        raise SyntaxError(where) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError("not Python") from error


def _depth(source: str) -> int:
    """Bound the nesting of brackets from above: those in text count too."""
    depth = deepest = 0
    for character in source:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if value is None or type(value) in (bool, int, float, str):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=entries):
            return [_value(entry) for entry in entries]
        case ast.Tuple(elts=entries):
            return tuple(_value(entry) for entry in entries)
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.Call(func=ast.Name(id="dict"), args=arguments, keywords=keywords):
            found = [_value(argument) for argument in arguments]
            if len(found) < 2 and all(isinstance(one, dict) for one in found):
                named = {keyword.arg or "": _value(keyword.value) for keyword in keywords}
                return {**(found[0] if found else {}), **named}
        case ast.Name(id=name) if name in ("inf", "nan"):  # str(float), which mmengine writes
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -float("inf")
    raise SyntaxError(f"line {node.lineno} is no plain value")


def _key(node: ast.expr | None) -> Any:
    key = None if node is None else _value(node)
    if not isinstance(key, (str, int)):
        raise SyntaxError("a key is no text")
    return key
