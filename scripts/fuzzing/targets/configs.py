"""Target that reads the JSON files beside a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from fuzzing.damage import damaged
from fuzzing.folders import Entry, pack, unpack, write_folder
from fuzzing.json_damage import damaged_json
from fuzzing.target import WrongAnswerError
from levit.export.options import ExportOptions
from levit.export.preprocessing import choose_preprocess
from levit.export.settings import choose_labels
from levit.export.sources import load_source
from levit.models.ops import NumpyOps
from levit.models.registry import digits_folder

__all__ = ["ConfigTarget"]

_CASES = Path(__file__).parents[3] / "tests" / "data" / "cases"
_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_INDEX = "model.safetensors.index.json"

# File that transformers 4 and 5 save for facebook/levit-128S.
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
    """Choices that `levit export` makes from the files beside a checkpoint, before it exports.

    The weights are whole. A config may be contradicted by them, or say other class names and
    other preprocessing; it may not make another network of them in silence.
    """

    name = "config"
    memory_bytes = 1 << 30
    seconds = 120.0

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

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        base, entries = unpack(data)
        others = [text for own in self._texts.values() for text in own.values()]

        def changed(name: str) -> st.SearchStrategy[bytes]:
            text = self._texts[base][name]
            contents: st.SearchStrategy[Entry] = st.one_of(
                *[damaged_json(text, others)] * 5, damaged(text.encode())
            )
            return contents.map(lambda part: pack(base, {**entries, name: part}))

        return st.sampled_from(sorted(self._texts[base])).flatmap(changed)

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
        model, spec, labels = answer
        path = folder / "checkpoint"
        config = _read(path / _CONFIG)
        _judge_labels(config, labels, model.config.num_classes)
        _judge_preprocessing(config, _read(path / _PREPROCESSOR), spec, model.config.image_size)
        self._judge_network(config, model, self._expected[base][0])

    def _judge_network(self, config: Mapping[str, Any], model: Any, expected: Any) -> None:
        """Demand the same outputs to the last bit, unless the config says otherwise."""
        said = {**config, **(config.get("model_args") or {})}
        free = {"act_layer", "attn_act_layer", "img_size", "image_size"}
        stated = {name: said.get(name) for name in free}
        if (
            model.config.activation != expected.config.activation
            and "silu" not in str(stated).lower()
            and "swish" not in str(stated).lower()
        ):
            raise WrongAnswerError("activation: another than before, and nothing says so")
        if model.config.activation != expected.config.activation:
            return
        if model.config.attention_activation != expected.config.attention_activation:
            return
        size = expected.config.image_size
        if model.config.image_size != size:
            raise WrongAnswerError(f"size: {model.config.image_size}, and the weights are {size}")
        x = np.linspace(-1, 1, 3 * size[0] * size[1]).reshape(1, 3, *size)
        before = expected.forward(NumpyOps(np.float64), x)
        for name, value in model.forward(NumpyOps(np.float64), x).items():
            if name in before and not np.array_equal(value, before[name]):
                raise WrongAnswerError(f"network: {name} is not what it was")


def _judge_labels(config: Mapping[str, Any], labels: Sequence[str], classes: int) -> None:
    of_transformers = config.get("model_type", "timm_wrapper") != "timm_wrapper"
    names = config.get("id2label" if of_transformers else "label_names")
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    if names is None or not classes:
        names = range(classes)
    if list(labels) != [str(name) for name in names]:
        raise WrongAnswerError(f"labels: {labels[:3]}, and the config says {list(names)[:3]}")


def _judge_preprocessing(
    config: Mapping[str, Any], processor: Mapping[str, Any], spec: Any, size: tuple[int, int]
) -> None:
    """Demand in the spec the numbers, the filter and the crop that a file states."""
    if spec.image_size != size:
        raise WrongAnswerError(f"preprocessing: {spec.image_size} for a network of {size}")
    said: dict[str, Any] = {}
    if spec.flavour == "timm":
        said = dict(config.get("pretrained_cfg") or {})
    elif processor:
        factor = 1.0
        if processor.get("do_rescale") is not False:
            given = processor.get("rescale_factor")
            factor = 1 / 255 if given is None else given
        if processor.get("do_normalize") is not False:
            for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
                value = processor.get(theirs)
                if value is not None:
                    values = value if isinstance(value, list) else [value] * 3
                    said[ours] = [one / (255 * factor) for one in values]
        if processor.get("resample") is not None:
            said["interpolation"] = Image.Resampling(processor["resample"]).name.lower()
    for name in ("mean", "std", "crop_pct"):
        if said.get(name) is not None:
            found, wanted = getattr(spec, name), said[name]
            if not np.allclose(found, np.asarray(wanted, float), rtol=1e-12, atol=0):
                raise WrongAnswerError(f"preprocessing: {name} is {found}, not {wanted}")
    for name in ("interpolation", "crop_mode"):
        if said.get(name) not in (None, getattr(spec, name)):
            raise WrongAnswerError(f"preprocessing: {name} is {getattr(spec, name)}")


def _chosen(path: Path) -> Any:
    options = ExportOptions(checkpoint=path)
    source = load_source(options)
    spec, _ = choose_preprocess(options, source)
    labels, _ = choose_labels(options, source)
    return source.model, spec, labels


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values: dict[str, Any] = json.loads(path.read_bytes().decode("utf-8-sig"))
    return values
