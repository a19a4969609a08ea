"""Files that peers need of a model, prepared once in a process of its own.

========== ====================================================================================
format     files
========== ====================================================================================
weights    ``weights.safetensors`` under timm's names; ``reference.npz`` with `input`
           (2, 3, H, W) float32 and `logits` (2, classes) float64, of timm in float64;
           ``counts.json`` (macs of one image, parameters); ``preprocess.json`` (timm's data
           config of the model)
onnx       ``naive.onnx`` and its ``.data``: timm → torch.onnx.export, nothing else done but
           timm's own fusing for deployment where we do not compile the model
openvino   ``naive.xml`` and ``.bin``: that ONNX read and saved by OpenVINO, weights in float32
int8       ``naive-int8.xml`` and ``.bin``: that through ``nncf.quantize`` as it comes
========== ====================================================================================

The batch is dynamic; engines fix it at load, which was measured to be as fast as an export with
that batch (ONNX Runtime 1.31, OpenVINO 2026.4; levit_128s and efficientnet_b0, 1 and 16 images).

Exports take seconds to a minute, so they are kept in ``${XDG_CACHE_HOME:-~/.cache}/levit/bench``,
under a key of everything that decides their contents. A part is a folder that appears there by
one rename, so it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from levit.benchmarks import peer_making, peer_weights
from levit.benchmarks.processes import child_environment
from levit.errors import ConfigError, ExportError, LevitError, brief
from levit.models import pictures, random_weights

__all__ = ["FORMATS", "cache_folder", "prepare"]

# The files of each format, the one that is opened last; each is made from the format before it.
FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "weights": ("counts.json", "preprocess.json", "reference.npz", "weights.safetensors"),
    "onnx": ("naive.onnx.data", "naive.onnx"),
    "openvino": ("naive.bin", "naive.xml"),
    "int8": ("naive-int8.bin", "naive-int8.xml"),
}

# No part takes nearly as long to make.
_STALE_S: Final = 3600 * 24

_PACKAGES: Final = ("torch", "timm", "numpy", "onnx", "onnxscript", "openvino", "nncf")


def prepare(
    model: str,
    folder: Path,
    *,
    formats: Sequence[str] = ("weights", "onnx"),
    image_size: tuple[int, int] = (224, 224),
    seed: int = 0,
    cache: bool = True,
) -> None:
    """Put the files of `formats`, and of the formats that they are made from, into `folder`.

    Parts that the cache lacks are made in a process of its own: this one imports no PyTorch.
    Example: ``prepare("levit_128s", Path("files"), formats=["openvino"])``.

    Args:
        model: timm's name.
        folder: exists; files of these names in it are replaced, each by one rename.
        formats: keys of `FORMATS`.
        image_size: (height, width) in pixels.
        seed: seed of the random weights.
        cache: True to take parts from the cache, and to leave new ones there.

    Raises:
        ConfigError: timm has no such model, or a format is unknown.
        ExportError: a file cannot be made, or written.
    """
    order = list(FORMATS)
    if unknown := [name for name in formats if name not in order]:
        raise ConfigError(f"unknown format {unknown[0]!r}; there are {', '.join(order)}")
    wanted = order[: 1 + max(map(order.index, formats), default=0)]
    with contextlib.ExitStack() as stack:
        try:
            if cache:
                store = cache_folder(model, image_size, seed)
                store.mkdir(parents=True, exist_ok=True)
            else:
                name = tempfile.mkdtemp(prefix=".preparing-", dir=folder)
                stack.callback(shutil.rmtree, name, ignore_errors=True)
                store = Path(name)
            if not all((store / part).is_dir() for part in wanted):
                _make_in_subprocess(model, store, wanted, image_size, seed)
            for part in wanted:
                for file in FORMATS[part]:
                    _place(store / part / file, folder / file)
        except OSError as error:
            raise ExportError(
                f"{model}: its files cannot be prepared ({brief(error)}); free some space, or set "
                f"XDG_CACHE_HOME to a folder that can be written"
            ) from error


def cache_folder(model: str, image_size: tuple[int, int], seed: int) -> Path:
    """Folder of a model's parts: a name for people, and a key of all that decides them."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    height, width = image_size
    digest = hashlib.sha256()
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        digest.update(f"{package} {version}\n".encode())
    sources = [random_weights, pictures, peer_making, peer_weights]
    if ours := peer_weights.compiled(model):
        _, config = ours
        # A family's rules of drawing lie beside its config.
        package = type(config).__module__.rpartition(".")[0]
        sources.append(importlib.import_module(f"{package}.random"))
        digest.update(repr(config).encode())
    for module in sources:
        digest.update(inspect.getsource(module).encode())
    key = digest.hexdigest()[:16]
    return base / "levit" / "bench" / f"{model}-{height}x{width}-seed{seed}-{key}"


def _make_in_subprocess(
    model: str, store: Path, parts: Sequence[str], image_size: tuple[int, int], seed: int
) -> None:
    request = json.dumps([model, str(store), parts, image_size, seed])
    # PyTorch's threads spin while they wait for each other: on a busy machine two of them took
    # from 4 to over 100 seconds where one takes 3.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "levit.benchmarks.peer_files", request],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=child_environment(1),
    )
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
        raise ExportError(
            f"{model}: preparing the peers' files was ended by {how}; is there enough memory?"
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ExportError(said.removeprefix("error: "))


def _make(
    model: str, store: Path, parts: Sequence[str], image_size: tuple[int, int], seed: int
) -> None:
    """Make the parts that `store` lacks. Imports PyTorch."""
    for staging in store.glob(".*-*"):  # of a process that was killed, when nobody is at it
        if time.time() - staging.stat().st_mtime > _STALE_S:
            shutil.rmtree(staging, ignore_errors=True)
    network: Any = None
    for part in parts:
        if (store / part).is_dir():
            continue
        staging = Path(tempfile.mkdtemp(prefix=f".{part}-", dir=store))
        try:
            with peer_making.third_party(f"{model}: {part}"):
                if part == "weights":
                    network = peer_making.make_weights(model, image_size, seed, staging)
                elif part == "onnx":
                    network = network or peer_making.load_network(model, store / "weights")
                    peer_making.make_onnx(model, network, image_size, staging / "naive.onnx")
                elif part == "openvino":
                    onnx = store / "onnx" / "naive.onnx"
                    peer_making.make_openvino(onnx, staging / "naive.xml")
                else:
                    naive = store / "openvino" / "naive.xml"
                    peer_making.make_int8(naive, image_size, seed, staging / "naive-int8.xml")
            # Another run may have been faster; its files are the same.
            with contextlib.suppress(OSError):
                staging.rename(store / part)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _place(source: Path, destination: Path) -> None:
    """The file under another name, by a link where the disk allows; nobody writes to either."""
    if destination.exists() and destination.samefile(source):
        return
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(destination)


def main() -> None:
    """Make parts in a store, as the JSON list in the only argument says."""
    model, store, parts, image_size, seed = json.loads(sys.argv[1])
    try:
        _make(model, Path(store), parts, tuple(image_size), seed)
    except LevitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
