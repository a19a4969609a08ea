"""The JSON files beside a checkpoint: ``config.json``, ``preprocessor_config.json``, shards."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.folders import pack, unpack, write_folder
from fuzzing.json_mutations import mutate_json
from fuzzing.mutations import mutate_bytes
from fuzzing.target import WrongAnswerError
from levit.export.options import ExportOptions
from levit.export.settings import choose_labels, choose_preprocess
from levit.export.sources import digits_folder, load_source
from levit.models.ops import NumpyOps

__all__ = ["ConfigTarget"]

_CASES = Path(__file__).parents[3] / "tests" / "data" / "cases"
_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_INDEX = "model.safetensors.index.json"

# As transformers 4 and 5 save it for facebook/levit-128S.
_PROCESSOR = {
    "crop_size": {"height": 96, "width": 96},
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "LevitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 96},
}


class ConfigTarget:
    """What `levit export` makes of the files beside a checkpoint, before it exports.

    The weights are whole. A config may be contradicted by them, or say other class names and
    other preprocessing; it may not make another network of them in silence.
    """

    name = "config"
    memory_bytes = 1 << 30
    seconds = 20.0

    def __init__(self) -> None:
        self._bases = {
            "timm": digits_folder(),
            "transformers": _CASES / "transformers_levit_tiny96",
            "teacher": _CASES / "transformers_levit_tiny96_with_teacher",
        }
        self._texts: dict[str, dict[str, str]] = {}
        self._expected: dict[str, Any] = {}

    def prepare(self, folder: Path) -> None:
        for name, base in self._bases.items():
            own = folder / name
            own.mkdir()
            (own / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
            self._bases[name] = own
            self._texts[name] = {_CONFIG: (base / _CONFIG).read_text(encoding="utf-8")}
            (own / _CONFIG).write_text(self._texts[name][_CONFIG], encoding="utf-8")
        self._texts["transformers"][_PREPROCESSOR] = json.dumps(_PROCESSOR)

    def seeds(self) -> Sequence[bytes]:
        return [
            pack(name, {file: text.encode() for file, text in texts.items()})
            for name, texts in self._texts.items()
        ]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        try:
            base, entries = unpack(data)
            texts = {name: bytes(entry or b"").decode() for name, entry in entries.items()}
            for text in texts.values():
                json.loads(text)
        except (ValueError, TypeError, RecursionError):
            base = rng.choice(list(self._texts))
            texts = dict(self._texts[base])
        name = rng.choice(list(texts))
        others = [text for own in self._texts.values() for text in own.values()]
        changed: dict[str, Any] = {file: text.encode() for file, text in texts.items()}
        if rng.random() < 0.85:
            changed[name] = mutate_json(rng, texts[name], others)
        else:
            changed[name] = mutate_bytes(rng, changed[name])
        return pack(base, changed)

    def attempt(self, data: bytes, folder: Path) -> Any:
        try:
            base, entries = unpack(data)
            write_folder(folder / "checkpoint", self._bases[base], entries)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return _chosen(folder / "checkpoint")

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        if answer is None:
            return
        base, _ = unpack(data)
        if base not in self._expected:
            self._expected[base] = _chosen(self._bases[base])
        model, _, labels = answer
        expected = self._expected[base][0]
        said = _objects(folder / "checkpoint" / _CONFIG)
        if not any("act" in key and "layer" in key for key in set().union(*said)):
            if model.config.activation != expected.config.activation and base != "timm":
                raise WrongAnswerError("activation: changed, and nothing says so")
        if len(labels) != model.config.num_classes:
            raise WrongAnswerError(f"labels: {len(labels)} for {model.config.num_classes} classes")
        if "activation" in _differences(model.config, expected.config):
            return
        size = expected.config.image_size
        if model.config.image_size != size:
            return  # said so by the config, and the shapes allow it
        x = np.linspace(-1, 1, 3 * size[0] * size[1]).reshape(1, 3, *size)
        before = expected.forward(NumpyOps(np.float64), x)
        for name, value in model.forward(NumpyOps(np.float64), x).items():
            if name in before and not np.array_equal(value, before[name]):
                raise WrongAnswerError(f"network: {name} is not what it was")


def _chosen(path: Path) -> Any:
    options = ExportOptions(checkpoint=path)
    source = load_source(options)
    spec, _ = choose_preprocess(options, source)
    labels, _ = choose_labels(options, source)
    return source.model, spec, labels


def _differences(one: Any, other: Any) -> set[str]:
    return {
        "activation" if "activation" in name else name
        for name, value in vars(one).items()
        if value != getattr(other, name)
    }


def _objects(path: Path) -> list[Mapping[str, Any]]:
    """Every object of a JSON file."""
    found = []
    pending = [json.loads(path.read_bytes().decode("utf-8-sig"))] if path.is_file() else []
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            found.append(value)
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return found or [{}]
