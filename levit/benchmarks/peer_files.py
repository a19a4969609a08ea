"""Files that peers need of a model, prepared once in a process of its own.

::

    python -m levit.benchmarks.peer_files levit_128s FOLDER --formats weights,onnx,openvino,int8

========== ====================================================================================
format     files
========== ====================================================================================
weights    ``weights.safetensors`` under timm's names; ``reference.npz`` with `input`
           (2, 3, H, W) float32 and `logits` (2, classes) float64, of timm in float64;
           ``counts.json`` (macs of one image, parameters); ``preprocess.json`` (timm's data
           config of the model)
onnx       ``naive.onnx`` and its ``.data``: timm → torch.onnx.export, nothing else done
openvino   ``naive.xml`` and ``.bin``: that ONNX read and saved by OpenVINO, weights in float32
int8       ``naive-int8.xml`` and ``.bin``: that through ``nncf.quantize`` as it comes
========== ====================================================================================

The batch is dynamic; engines fix it at load, which was measured to be as fast as an export with
that batch (ONNX Runtime 1.31, OpenVINO 2026.4; levit_128s and efficientnet_b0, 1 and 16 images).

Exports take seconds to a minute, so they are kept in ``${XDG_CACHE_HOME:-~/.cache}/levit/bench``,
under a key of everything that decides their contents. A part is a folder that appears there by
one rename: what is there is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
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
from levit.benchmarks.worker_process import child_environment
from levit.errors import ConfigError, ExportError, LevitError, brief
from levit.models import pictures, random_weights

__all__ = ["FORMATS", "cache_folder", "prepare"]

# What each format is made from, and its files, the one that is opened last.
FORMATS: Final[Mapping[str, tuple[str | None, tuple[str, ...]]]] = {
    "weights": (
        None,
        ("counts.json", "preprocess.json", "reference.npz", "weights.safetensors"),
    ),
    "onnx": ("weights", ("naive.onnx.data", "naive.onnx")),
    "openvino": ("onnx", ("naive.bin", "naive.xml")),
    "int8": ("openvino", ("naive-int8.bin", "naive-int8.xml")),
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
    """Put the files of `formats`, and of those that they are made from, into `folder`.

    What the cache lacks is made in a process of its own: this one imports no PyTorch.

    Args:
        model: timm's name.
        folder: exists; files of these names in it are replaced, each by one rename.
        formats: keys of `FORMATS`.
        image_size: (height, width) in pixels.
        seed: of the random weights.
        cache: whether to take from the cache, and to leave there what is made.

    Raises:
        ConfigError: timm has no such model, or a format is unknown.
        ExportError: a file cannot be made, or written.
    """
    wanted = _closure(formats)
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
                for file in FORMATS[part][1]:
                    _place(store / part / file, folder / file)
        except OSError as error:
            raise ExportError(
                f"{model}: its files cannot be prepared ({brief(error)}); free some space, or set "
                f"XDG_CACHE_HOME to a folder that can be written"
            ) from error


def cache_folder(model: str, image_size: tuple[int, int], seed: int) -> Path:
    """Where the parts of a model are kept: a name for people, and a key of what decides them."""
    root = os.environ.get("XDG_CACHE_HOME")
    base = Path(root) if root else Path.home() / ".cache"
    height, width = image_size
    digest = hashlib.sha256()
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        digest.update(f"{package} {version}\n".encode())
    sources = [random_weights, pictures, peer_weights, peer_making]
    if ours := peer_weights.compiled(model):
        family, config = ours
        sources.append(sys.modules[family.randomize.__module__])
        digest.update(repr(config).encode())
    for module in sources:
        digest.update(inspect.getsource(module).encode())
    name = f"{model}-{height}x{width}-seed{seed}-{digest.hexdigest()[:16]}"
    return base / "levit" / "bench" / name


def _closure(formats: Sequence[str]) -> list[str]:
    """The formats and what they are made from, in the order of making."""
    wanted: set[str] = set()
    for part in ("weights", *formats):
        step: str | None = part
        while step is not None:
            if step not in FORMATS:
                raise ConfigError(f"unknown format {step!r}; there are {', '.join(FORMATS)}")
            wanted.add(step)
            step = FORMATS[step][0]
    return [part for part in FORMATS if part in wanted]


def _make_in_subprocess(
    model: str, store: Path, parts: Sequence[str], image_size: tuple[int, int], seed: int
) -> None:
    height, width = image_size
    command = [sys.executable, "-P", "-m", "levit.benchmarks.peer_files", model, str(store)]
    command += ["--formats", ",".join(parts), "--image-size", f"{height}x{width}"]
    command += ["--seed", str(seed), "--into-store"]
    # PyTorch's threads spin while they wait for each other: on a busy machine two of them took
    # from 4 to over 100 seconds for what one does in 3.
    single = child_environment(1)
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=single
    )
    if done.returncode == 0:
        return
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
        raise ExportError(
            f"{model}: preparing the peers' files was ended by {how}; is there enough memory?"
        )
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise ExportError(said.removeprefix("error: "))


def _make(
    model: str, store: Path, parts: Sequence[str], image_size: tuple[int, int], seed: int
) -> None:
    """Make the parts that `store` lacks. Imports PyTorch."""
    for staging in store.glob(".*-*"):  # of a process that was killed, when nobody is at it
        if time.time() - staging.stat().st_mtime > _STALE_S:
            shutil.rmtree(staging, ignore_errors=True)
    done = {part: store / part for part in FORMATS if (store / part).is_dir()}
    source: Any = None
    for part in parts:
        if part in done:
            continue
        staging = Path(tempfile.mkdtemp(prefix=f".{part}-", dir=store))
        try:
            with peer_making.third_party(f"{model}: {part}"):
                if part == "weights":
                    source = peer_making.make_weights(model, image_size, seed, staging)
                elif part == "onnx":
                    source = source or peer_making.load_network(model, done["weights"])
                    peer_making.make_onnx(source, image_size, staging / "naive.onnx")
                elif part == "openvino":
                    peer_making.make_openvino(done["onnx"] / "naive.onnx", staging / "naive.xml")
                else:
                    naive = done["openvino"] / "naive.xml"
                    peer_making.make_int8(naive, image_size, seed, staging / "naive-int8.xml")
            # Another run may have been faster; its files are the same.
            with contextlib.suppress(OSError):
                staging.rename(store / part)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        done[part] = store / part


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="timm's name")
    parser.add_argument("folder", type=Path, help="where the files go; made if missing")
    parser.add_argument("--formats", default="weights,onnx", help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--image-size", default="224x224", metavar="HxW", help="pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--no-cache", action="store_true", help="make everything anew")
    # The folder is a store of parts, and this the process that fills it.
    parser.add_argument("--into-store", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    formats = arguments.formats.split(",")
    try:
        height, width = (int(edge) for edge in arguments.image_size.split("x"))
    except ValueError:
        parser.error(f"argument --image-size: {arguments.image_size!r} is not like 224x224")
    try:
        if arguments.into_store:
            parts = _closure(formats)
            _make(arguments.model, arguments.folder, parts, (height, width), arguments.seed)
        else:
            arguments.folder.mkdir(parents=True, exist_ok=True)
            prepare(
                arguments.model,
                arguments.folder,
                formats=formats,
                image_size=(height, width),
                seed=arguments.seed,
                cache=not arguments.no_cache,
            )
            print(json.dumps(sorted(file.name for file in arguments.folder.iterdir())))
    except LevitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
