"""Synthetic records: NOT measured. Invented numbers in the shape of a run, for tests alone."""

import random

from levit.benchmarks.intervals import Interval
from levit.benchmarks.protocols import PROTOCOLS
from levit.benchmarks.record import Contender, Measurement, Record, Round
from levit.benchmarks.report import Context, HeadlineRow, PublishedSpeed

# model: (top-1, MMAC, parameters, pixels, invented images/s of fp32 on one thread, paper's Xeon)
MODELS = {
    "levit_128s": (76.6, 305, 7.8e6, 224, 190, 131.08),
    "levit_128": (78.6, 406, 9.2e6, 224, 140, 94.03),
    "levit_192": (80.0, 658, 11e6, 224, 92, 65.01),
    "levit_256": (81.6, 1120, 19e6, 224, 58, 42.51),
    "levit_384": (82.6, 2353, 39e6, 224, 30, 23.12),
    "efficientnet_b0": (77.1, 390, 5.3e6, 224, 81, 30.09),
    "efficientnet_b1": (79.1, 570, 7.8e6, 240, 52, 20.04),
    "efficientnet_b2": (80.1, 720, 9.1e6, 260, 37, 13.16),
    "efficientnet_b3": (81.6, 1300, 12e6, 300, 20, 5.85),
    "efficientnet_b4": (82.9, 3100, 19e6, 380, 8.4, 2.46),
    "deit_tiny_distilled_patch16_224": (74.5, 1080, 5.9e6, 224, 60, 39.11),
    "deit_small_distilled_patch16_224": (81.2, 4250, 22.4e6, 224, 19, 13.75),
    "resnet50": (80.4, 4110, 25.6e6, 224, 21, None),
}

# Of a call of `end-to-end-many`.
IMAGES = 128

# engine: (title, runtime, kind, precision, speed, speed of EfficientNet over that again)
ENGINES = {
    "levit-onnx": ("levit → ONNX Runtime", "onnxruntime", "ours", "fp32", 1.0, None),
    "naive-onnxruntime": ("timm → ONNX → ONNX Runtime", "onnxruntime", "peer", "fp32", 0.84, 1.1),
    "timm-eager": ("timm, PyTorch eager", "pytorch", "peer", "fp32", 0.6, 0.45),
    "timm-traced": (
        "timm, BatchNorm folded, traced (as in the paper)",
        *("pytorch", "peer", "fp32", 0.66, 0.55),
    ),
    "original-traced": (
        "facebookresearch/LeViT, as its speed_test.py",
        *("pytorch", "peer", "fp32", 0.67, None),
    ),
    "timm-compile": ("timm, torch.compile, frozen", "pytorch", "peer", "fp32", 0.75, 0.7),
    "naive-openvino": ("timm → ONNX → OpenVINO", "openvino", "peer", "fp32", 1.04, 0.9),
    "naive-openvino-default": (
        "timm → ONNX → OpenVINO as it comes",
        *("openvino", "peer", "bf16", 2.0, 1.6),
    ),
    "nncf-openvino": ("timm → ONNX → NNCF → OpenVINO", "openvino", "peer", "int8", 3.1, 2.2),
}

SPECIAL_REASONS = {
    ("resnet50", "timm-compile"): ("failed", "the compiler of torch.compile found no C++ compiler"),
    ("efficientnet_b4", "nncf-openvino"): (
        "wrong",
        "its logits differ by 0.31 of the largest",
    ),
    ("levit_384", "timm-compile"): ("skipped", "not enough memory: 1.2 GB free, 2.0 GB needed"),
}

# What a name or a reason could hold if somebody wished us ill.
HOSTILE = (
    "</style></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'`=&lt;|$x^2$\n\x00🐛名"
)


def build(
    models=tuple(MODELS),
    engines=tuple(ENGINES),
    protocols=tuple(PROTOCOLS),
    rounds=12,
    seed=0,
    hostile=False,
    status="complete",
):
    """An invented run; the same for the same arguments."""
    rng = random.Random(seed)
    contenders, measurements = [], []
    for engine in engines:
        for model in models:
            c = _contender(model, engine)
            if c is None:
                continue
            contenders.append(c)
            for protocol in protocols:
                measurements.append(_measurement(rng, c, protocol, rounds))
    for precision, gflops in (("fp32", 190), ("bf16", 550), ("int8", 1200)):
        c = Contender(
            name=f"matmul · {precision}",
            model="matmul",
            engine="matmul",
            title="matrix product",
            runtime="onnxruntime",
            kind="ceiling",
            precision=precision,
            image_size=(1, 1),
            macs=1024**3,
        )
        contenders.append(c)
        settings = _settings("paper") | {"batch": 1}
        call = int(2 * 1024**3 / gflops)
        turn = Round(elapsed_ns=call * 5, values=(call,) * 5)
        measurements.append(
            Measurement(contender=c.name, protocol="paper", settings=settings, rounds=(turn,) * 3)
        )
    if hostile:
        c = Contender(
            name=HOSTILE,
            model=f"levit_{HOSTILE}",
            engine=HOSTILE,
            title=HOSTILE,
            runtime=HOSTILE,
            kind="peer",
            precision=HOSTILE,
            image_size=(224, 224),
            macs=10**8,
            top1=79.0,
        )
        contenders.append(c)
        measurements += [_measurement(rng, c, protocol, 3) for protocol in protocols]
        measurements.append(
            Measurement(
                contender=c.name,
                protocol="paper",
                settings={HOSTILE: HOSTILE},
                status="failed",
                reason=HOSTILE,
            )
        )
    return Record(
        created="2026-11-20T12:00:00Z",
        command=("levit-bench", "--device", "cpu", "--peers", "--report", "report.html"),
        status=status,
        machine=_machine(HOSTILE if hostile else "Synthetic EPYC, an invented machine"),
        settings={"device": "cpu", "seed": seed},
        noise=_noise(),
        contenders=tuple(contenders),
        measurements=tuple(measurements),
    )


def context(hostile=False):
    """What stands beside an invented record; the published column is the paper's own."""
    rng = random.Random(1)
    return Context(
        published={
            model: PublishedSpeed(images_per_s=v[5], top1=v[0])
            for model, v in MODELS.items()
            if v[5] is not None
        },
        published_title=HOSTILE if hostile else "Intel Xeon Gold 6138, one thread, fp32",
        headline=(
            HeadlineRow(
                engine="levit → ONNX Runtime · fp32",
                over="EfficientNet by timm → ONNX → ONNX Runtime",
                top1=80.0,
                ratio=Interval(2.31, 2.26, 2.37),
            ),
            HeadlineRow(
                engine="timm, PyTorch eager · fp32", top1=80.0, ratio=Interval(5.98, 5.81, 6.2)
            ),
            HeadlineRow(
                engine="levit → ONNX Runtime · fp32",
                top1=81.6,
                model="levit_256",
                ratio=Interval(2.61, 2.5, 2.7),
            ),
            HeadlineRow(
                engine="NNCF int8 → OpenVINO",
                top1=83.0,
                ratio=None,
                note=HOSTILE if hostile else "no EfficientNet above",
            ),
        ),
        quietness="noisy",
        reasons=(HOSTILE if hostile else "the calibration kernel varied by 9 %",),
        calibration_ns=tuple(8e6 * (1 + abs(rng.gauss(0, 0.02))) for _ in range(160)),
    )


def _contender(model, engine):
    title, runtime, kind, precision, _, others = ENGINES[engine]
    if others is None and not model.startswith("levit"):
        return None
    top1, mmac, parameters, pixels, _, _ = MODELS[model]
    return Contender(
        name=f"{model} · {title} {precision}",
        model=model,
        engine=engine,
        title=title,
        runtime=runtime,
        kind=kind,
        precision=precision,
        image_size=(pixels, pixels),
        macs=mmac * 10**6,
        parameters=int(parameters),
        top1=top1,
    )


def _settings(protocol):
    batch = {"paper": 16, "throughput": 8, "end-to-end-many": 16}.get(protocol, 1)
    threads = 1 if protocol == "paper" else 2
    found = {"batch": batch, "threads": threads, "streams": 1, "device": "cpu", "seconds": 10.0}
    return found | ({"images": IMAGES} if protocol == "end-to-end-many" else {})


def _measurement(rng, c, protocol, rounds):
    settings = _settings(protocol)
    outcome, reason = SPECIAL_REASONS.get((c.model, c.engine), ("ok", ""))
    if outcome != "ok":
        return Measurement(
            contender=c.name,
            protocol=protocol,
            settings=settings,
            status=outcome,
            reason=reason,
            error=0.31 if outcome == "wrong" else None,
        )
    return Measurement(
        contender=c.name,
        protocol=protocol,
        settings=settings,
        error=3e-6,
        rounds=tuple(_round(rng, c, protocol, settings["batch"]) for _ in range(rounds)),
        scan=({"batch": 8, "streams": 1, "images_per_second": 99.5},)
        if protocol == "throughput"
        else (),
    )


def _speed(c):
    *_, speed, other = ENGINES.get(c.engine, ("", "", "", "", 0.5, 1.0))
    base = MODELS[c.model][4] if c.model in MODELS else 50
    return base * (speed if c.model.startswith("levit") else speed * (other or 1))


def _round(rng, c, protocol, batch):
    drift = rng.gauss(1, 0.015)
    if protocol == "cold-start":
        seconds = {"ours": 0.24}.get(c.kind, 3.4 if c.runtime == "pytorch" else 0.5) * drift
        return Round(elapsed_ns=int(seconds * 1e9), values=(int(seconds * 1e9),))
    if protocol == "memory":
        size = int((900e6 if c.runtime == "pytorch" else 120e6) + (c.parameters or 0) * 4 * drift)
        return Round(elapsed_ns=10**9, values=(size,))
    threads = 1 if protocol == "paper" else 1.9
    batch = 1 if protocol == "end-to-end-many" else batch
    mean = batch / _speed(c) / threads * 1e9 * drift
    stages = {}
    if protocol == "end-to-end":
        stages = {
            "decode": tuple(int(rng.gauss(0.8e6, 5e4)) for _ in range(20)),
            "resize": tuple(int(rng.gauss(2.0e6, 8e4)) for _ in range(20)),
            "network": tuple(int(mean * rng.gauss(1, 0.02)) for _ in range(20)),
        }
        values = tuple(int(sum(v) + 9e4) for v in zip(*stages.values(), strict=True))
    elif protocol == "end-to-end-many":
        values = tuple(int(IMAGES * (mean + 1.6e6) * rng.gauss(1, 0.01)) for _ in range(2))
        stages = {"cpu": tuple(int(1.9 * value) for value in values)}
    else:
        values = tuple(int(mean * (1 + rng.expovariate(18))) for _ in range(20))
    return Round(elapsed_ns=int(sum(values) * 1.001), values=values, stages=stages)


def _noise():
    rng = random.Random(2)
    counters = {"steal_s": 0.0, "load": 0.1, "throttled": 0, "overheated": 0}
    return {
        "cpus": 2,
        "samples": [
            {
                "at_s": 2.0 * i,
                "kernel_ns": [int(8e6 * (1 + abs(rng.gauss(0, 0.02)))) for _ in range(3)],
                "busy_s": 3.9 * i,
                "ours_s": 3.8 * i,
                **counters,
            }
            for i in range(40)
        ],
    }


def _machine(name):
    return {
        "cpu": {
            "model": name,
            "features": ["avx2", "avx512f", "avx512_bf16", "avx512_vnni"],
            "usable": 2,
            "governor": None,
            "quota": 2.0,
            "smt": True,
        },
        "memory": {"total_bytes": 25_000_000_000},
        "gpu": None,
        "load": [0.3, 0.2, 0.1],
        "versions": {"levit": "0.1.0", "onnxruntime": "1.31.1", "openvino": None},
        "revision": {"commit": "0" * 40, "changed": False},
    }
