"""Make tests/data/pth: small checkpoints as the libraries themselves write them.

Run from the repository root. mmengine (0.10.7 made the files that are checked in) asks for more
packages than it uses::

    pip install '.[dev,peers]'
    pip install --no-deps mmengine addict yapf termcolor rich pyyaml matplotlib \\
        opencv-python-headless
    python scripts/make_pth_fixtures.py

``expected.npz`` holds the weights that are to be found in each file, taken from the live models,
as ``FILE:NAME``.
"""

import argparse
import collections
import dataclasses
import datetime
import enum
import fractions
import functools
import operator
import tempfile
import warnings
from decimal import Decimal
from pathlib import Path, PurePosixPath

import numpy as np
import timm.optim
import timm.scheduler
import timm.utils
import torch
from torch import nn

State = dict[str, torch.Tensor]

DATA = Path(__file__).parent.parent / "tests" / "data" / "pth"


class Network(nn.Module):
    """A convolution and its BatchNorm, large enough to have every kind of entry."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(inputs)).square().mean()


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: float


def trained(steps: int = 2) -> tuple[Network, torch.optim.Optimizer, timm.utils.ModelEmaV3]:
    """(network, optimizer, averaged network) after some steps."""
    torch.manual_seed(418)
    network = Network()
    optimizer = timm.optim.create_optimizer_v2(network, opt="adamw", lr=0.01, weight_decay=0.05)
    averaged = timm.utils.ModelEmaV3(network, decay=0.5)
    for step in range(steps):
        optimizer.zero_grad()
        network(torch.randn(2, 3, 8, 8)).backward()
        optimizer.step()
        averaged.update(network, step)
    return network, optimizer, averaged


def arguments() -> argparse.Namespace:
    return argparse.Namespace(
        model="LeViT_128S", lr=5e-4, output_dir=Path("/runs/levit"), clip_grad=None,
        betas=(0.9, 0.999), seen={3, 1}, device=torch.device("cuda:0"),
    )  # fmt: skip


def levit_main(path: Path) -> State:
    """Checkpoint of main.py of facebookresearch/LeViT."""
    network, optimizer, averaged = trained()
    scheduler = timm.scheduler.CosineLRScheduler(optimizer, t_initial=10)
    torch.save(
        {
            "model": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": 7,
            "model_ema": averaged.module.state_dict(),
            "scaler": timm.utils.NativeScaler().state_dict(),
            "args": arguments(),
        },
        path,
    )
    return averaged.module.state_dict()


def timm_saver(path: Path) -> State:
    """Checkpoint of timm's train.py, of a run on several GPUs with torch.compile."""
    network, optimizer, averaged = trained()
    wrapped = torch.nn.Module()
    wrapped.state_dict = lambda: collections.OrderedDict(
        (f"module._orig_mod.{key}", value) for key, value in network.state_dict().items()
    )
    with tempfile.TemporaryDirectory() as folder:
        saver = timm.utils.CheckpointSaver(
            wrapped, optimizer, arguments(), model_ema=averaged, checkpoint_dir=folder,
            recovery_dir=folder, unwrap_fn=lambda model: getattr(model, "module", model),
        )  # fmt: skip
        saver.save_checkpoint(3, metric=np.float64(71.5))
        path.write_bytes((Path(folder) / "last.pth.tar").read_bytes())
    return averaged.module.state_dict()


def timm_without_average(path: Path) -> State:
    """Checkpoint of timm's train.py without averages, whose names have prefixes."""
    network, _, _ = trained()
    state = {f"_orig_mod.module.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state, "state_dict_ema": None, "epoch": 3, "version": 2}, path)
    return network.state_dict()


def mmengine_runner(path: Path) -> State:
    """Checkpoint of mmpretrain's runner: EMAHook, MessageHub, a meta that is not plain."""
    from mmengine.hooks import EMAHook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Trained(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

        def forward(
            self, inputs: list[torch.Tensor], mode: str = "loss"
        ) -> dict[str, torch.Tensor]:
            return {"loss": self.bn(self.conv(torch.stack(inputs))).square().mean()}

    torch.manual_seed(1)
    data = [{"inputs": torch.randn(3, 8, 8)} for _ in range(8)]
    averaging = EMAHook(momentum=0.5)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            model=Trained(), work_dir=folder, experiment_name="levit", log_level="ERROR",
            train_dataloader={"batch_size": 2, "dataset": data,
                              "sampler": {"type": "DefaultSampler", "shuffle": False}},
            optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.01}},
            param_scheduler=[{"type": "CosineAnnealingLR", "T_max": 2}],
            train_cfg={"by_epoch": True, "max_epochs": 2},
            custom_hooks=[averaging],
            default_hooks={"checkpoint": None, "logger": {"type": "LoggerHook", "interval": 1}},
        )  # fmt: skip
        runner.train()
        runner.message_hub.update_info("classes", np.arange(3))
        runner.save_checkpoint(folder, "last.pth", meta={"path": PurePosixPath("a")})
        path.write_bytes((Path(folder) / "last.pth").read_bytes())
    return averaging.ema_model.module.state_dict()


def views(path: Path) -> State:
    """Every layout and dtype that a tensor may have."""
    base = torch.arange(24, dtype=torch.float32)
    state = {
        "whole": base,
        "again": base,
        "transposed": base.reshape(4, 6).t(),
        "narrow": base.reshape(2, 3, 4)[:, 1:, ::2],
        "offset": base[5:7],
        "expanded": base[3:4].expand(5),
        "channels_last": base.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "scalar": base[7],
        "empty": torch.zeros(0, 3),
        "empty_view": base[24:],
        "parameter": nn.Parameter(base[:4].clone()),
        "buffer_of_doubles": base.double() / 3,
        "half": (base / 7).half(),
        "bfloat16": (base / 7).bfloat16().reshape(4, 6).t(),
        "bfloat16_scalar": torch.tensor(3.0, dtype=torch.bfloat16),
        "bool": base > 11,
        "bool_scalar": torch.tensor(True),
        "complex": torch.complex(base, -base),
        **{
            str(dtype).removeprefix("torch."): base.to(dtype)
            for dtype in (
                torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
                torch.uint16, torch.uint32, torch.uint64,
            )
        },
    }  # fmt: skip
    with_attribute = nn.Parameter(base[:4].clone())
    with_attribute.label = "attention"
    state["with_attribute"] = with_attribute
    torch.save(state, path)
    return {
        name: value.float() if value.dtype in (torch.half, torch.bfloat16) else value
        for name, value in state.items()
    }


def odd_neighbours(path: Path) -> State:
    """Weights beside objects of every kind that pickle knows a way for."""
    network, _, _ = trained()
    itself: list = []
    itself.append(itself)
    counts = collections.Counter("levit")
    torch.save(
        {
            "model": network.state_dict(),
            "network": network,
            "itself": itself,
            "tuple in itself": (itself,),
            "sets": [{1, 2}, frozenset("ab"), {(1, (2, 3))}],
            "keys": {1: 2, 2.5: 3, None: 4, (1, 2): 5, b"x": 6, Color.RED: 8},
            "numbers": [1, -1, 70_000, 2**40, -(2**80), 10**400, 1.5, 1j, Decimal("1.2"),
                        fractions.Fraction(1, 3), float("nan")],
            "texts": ["", "é", "\ud800", "a" * 300, b"", b"\xff" * 300, bytearray(b"abc")],
            "numpy": [np.arange(3), np.float32(2), np.dtype("f4,i2"), np.array(["a", None])],
            "torch": [torch.float32, torch.device("cpu"), torch.Size([1, 2]), torch.strided,
                      torch.Generator().get_state(), torch.tensor([1 + 2j]).conj()],
            "sparse": torch.eye(3).to_sparse(),
            "meta": torch.empty(3, device="meta"),
            "dicts": [counts, collections.defaultdict(list, a=[1]), collections.OrderedDict(a=1),
                      collections.deque([1]), collections.ChainMap({"a": 1})],
            "others": [Color.RED, Point(1.0), functools.partial(print, 1, end=""),
                       operator.itemgetter(1), datetime.datetime(2021, 4, 2), slice(1, 2), range(3),
                       ..., NotImplemented, print, dict, Path("/x"), ValueError("x"), arguments()],
        },
        path,
    )  # fmt: skip
    return network.state_dict()


def no_checksums(path: Path) -> State:
    network, _, _ = trained()
    torch.serialization.set_crc32_options(False)
    torch.save(network.state_dict(), path)
    torch.serialization.set_crc32_options(True)
    return network.state_dict()


def newer_protocol(path: Path) -> State:
    network, _, _ = trained()
    torch.save({"model": network.state_dict(), "args": arguments()}, path, pickle_protocol=5)
    return network.state_dict()


def legacy(path: Path) -> State:
    network, _, _ = trained()
    torch.save({"model": network.state_dict()}, path, _use_new_zipfile_serialization=False)
    return network.state_dict()


# Files without weights that can be used: nothing is expected of them but one line.


def legacy_namespace(path: Path) -> None:
    network, _, _ = trained()
    torch.save(
        {"model": network.state_dict(), "args": arguments()},
        path,
        _use_new_zipfile_serialization=False,
    )


def whole_network(path: Path) -> None:
    torch.save(trained()[0], path)


def unusable_sparse(path: Path) -> None:
    torch.save({"dense": torch.ones(2), "weight": torch.eye(3).to_sparse()}, path)


def unusable_meta(path: Path) -> None:
    torch.save({"dense": torch.ones(2), "weight": torch.empty(3, device="meta")}, path)


def unusable_quantised(path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    torch.save({"dense": torch.ones(2), "weight": quantised}, path)


def unusable_float8(path: Path) -> None:
    torch.save({"dense": torch.ones(2), "weight": torch.ones(2).to(torch.float8_e4m3fn)}, path)


def unusable_conjugate(path: Path) -> None:
    torch.save({"dense": torch.ones(2), "weight": torch.ones(2, dtype=torch.cfloat).conj()}, path)


FILES = {
    "levit_main.pth": levit_main,
    "timm_saver.pth.tar": timm_saver,
    "timm_without_average.pth": timm_without_average,
    "mmengine_runner.pth": mmengine_runner,
    "views.pth": views,
    "odd_neighbours.pth": odd_neighbours,
    "no_checksums.pth": no_checksums,
    "newer_protocol.pth": newer_protocol,
    "legacy.pth": legacy,
    "legacy_namespace.pth": legacy_namespace,
    "whole_network.pth": whole_network,
    "unusable_sparse.pth": unusable_sparse,
    "unusable_meta.pth": unusable_meta,
    "unusable_quantised.pth": unusable_quantised,
    "unusable_float8.pth": unusable_float8,
    "unusable_conjugate.pth": unusable_conjugate,
}


def main() -> None:
    warnings.simplefilter("ignore")
    DATA.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, make in FILES.items():
        for key, value in (make(DATA / name) or {}).items():
            expected[f"{name}:{key}"] = value.detach().contiguous().numpy()
    np.savez_compressed(DATA / "expected.npz", **expected)
    for path in sorted(DATA.iterdir()):
        print(f"{path.stat().st_size:>8} {path.name}")


if __name__ == "__main__":
    main()
