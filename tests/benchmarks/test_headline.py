import math

import numpy as np
import pytest

from levit.benchmarks.headline import best_engines, best_headlines, headlines, leads
from levit.benchmarks.intervals import median_interval
from levit.benchmarks.published import PUBLISHED, TODAY, is_efficientnet
from levit.benchmarks.record import Contender


def column(machine, rounds=1):
    """The paper's own figures as if they had been measured: (LeViTs, EfficientNets)."""
    rates = {
        name: [getattr(p, machine)] * rounds for name, p in PUBLISHED.items() if getattr(p, machine)
    }
    return (
        {name: r for name, r in rates.items() if name.startswith("levit")},
        {name: r for name, r in rates.items() if is_efficientnet(name)},
    )


def at(found, top1, model=None):
    (lead,) = [x for x in found if x.top1 == top1 and x.model == model]
    return lead


def test_the_papers_column_gives_the_papers_headline():
    found = leads(*column("xeon"))
    lead = at(found, 80.0)
    assert 4.5 < lead.ratio.median < 5.2  # "5 times faster ... at 80 %"
    assert lead.between == ("efficientnet_b1", "efficientnet_b2")
    assert at(found, 80.0, "levit_192").ratio == lead.ratio


def test_a_size_of_equal_accuracy_is_divided_by_that_size():
    levits, nets = column("xeon")
    lead = at(leads(levits, nets), 81.6, "levit_256")
    assert lead.between == ("efficientnet_b3", "efficientnet_b3")
    assert lead.ratio.median == pytest.approx(levits["levit_256"][0] / nets["efficientnet_b3"][0])


def test_nothing_is_extrapolated():
    levits, nets = column("xeon")
    assert {x.model for x in leads(levits, nets)} == {
        "levit_128", "levit_192", "levit_256", "levit_384", None
    }  # fmt: skip
    del nets["efficientnet_b4"]  # 82.6 % lies above what is left
    assert "levit_384" not in {x.model for x in leads(levits, nets)}
    assert leads(levits, {"efficientnet_b4": [1.0]}) == ()
    assert leads({}, nets) == ()


def test_the_curve_is_straight_in_the_logarithm():
    # Halfway between 77.1 and 79.1 %: the geometric mean.
    found = leads({"levit_128": [1.0]}, {"efficientnet_b0": [8.0], "efficientnet_b1": [2.0]})
    share = (78.6 - 77.1) / 2
    assert found[0].ratio.median == pytest.approx(1 / (8 ** (1 - share) * 2**share))


def test_the_interval_is_that_of_the_ratios_of_each_round(rng):
    # Drift that hits both alike must not widen it.
    drift = np.exp(rng.normal(0, 1, 31))
    levits = {"levit_256": (10 * drift).tolist()}
    ratio = leads(levits, {"efficientnet_b3": (2 * drift).tolist()})[0].ratio
    assert (ratio.low, ratio.high) == (pytest.approx(5), pytest.approx(5))
    apart = {"efficientnet_b3": (2 * drift[::-1]).tolist()}
    expected = median_interval([5 * a / b for a, b in zip(drift, drift[::-1], strict=True)])
    assert leads(levits, apart)[0].ratio == pytest.approx(expected)


def contender(model, engine, kind, runtime="onnxruntime", precision="fp32"):
    return Contender(
        name=f"{model} {engine} {precision}", model=model, engine=engine, title=engine,
        runtime=runtime, kind=kind, precision=precision, image_size=(224, 224),
    )  # fmt: skip


def test_every_network_runs_on_the_engine_that_is_fastest_with_it():
    measured = [
        (contender("levit_256", "native", "ours"), [9.0, 1.0, 9.0]),  # by medians, not by means
        (contender("levit_256", "naive", "peer"), [8.0, 8.0, 8.0]),
        (contender("levit_256", "naive", "peer", precision="int8"), [20.0]),
        (contender("efficientnet_b3", "naive", "peer"), [3.0, 3.0, 3.0]),
        (contender("efficientnet_b3", "other", "peer"), [2.0, 2.0, 2.0]),
    ]
    best = best_engines(measured)
    assert {p: {m: c.engine for m, (c, _) in of.items()} for p, of in best.items()} == {
        "fp32": {"levit_256": "native", "efficientnet_b3": "naive"},
        # Nobody would take EfficientNet at int8 where it is slower, or not there at all.
        "int8": {"levit_256": "naive", "efficientnet_b3": "naive"},
    }
    row, at_int8 = best_headlines(measured)
    assert at_int8.precision == "int8"
    assert (at_int8.levit, at_int8.other) == ("naive", "naive at fp32")
    assert at_int8.leads[0].ratio.median == pytest.approx(20 / 3)
    assert (row.precision, row.architecture, row.kind) == ("fp32", "EfficientNet", "ours")
    assert (row.levit, row.other) == ("native", "naive")
    (lead,) = row.leads
    assert (lead.top1, lead.model) == (81.6, "levit_256")
    assert lead.ratio.median == pytest.approx(3)


def test_levit_is_set_beside_every_architecture_also_where_it_is_slower():
    measured = [
        (contender("levit_192", "native", "ours"), [4.0]),
        (contender("levit_128s", "native", "ours"), [9.0]),
        (contender("mobilenetv4_conv_medium", "naive", "peer"), [8.0]),
        (contender("mobilenetv4_conv_large", "naive", "peer"), [8.0]),
        (contender("hgnetv2_b3", "naive", "peer"), [1.0]),  # more accurate than both LeViTs
        (contender("an_unknown_network", "naive", "peer"), [1.0]),
    ]
    (row,) = best_headlines(measured)
    assert row.architecture == "MobileNetV4"
    assert {lead.model: lead.ratio.median for lead in row.leads if lead.model} == {
        "levit_192": pytest.approx(0.5)
    }


def test_engines_are_compared_within_runtime_and_precision():
    measured = [
        (contender("levit_256", "naive", "peer"), [6.0]),
        (contender("efficientnet_b3", "naive", "peer"), [3.0]),
        (contender("levit_256", "ours", "ours"), [9.0]),
        (contender("levit_256", "eager", "peer", "pytorch"), [5.0]),
        (contender("efficientnet_b3", "eager", "peer", "pytorch"), [1.0]),
        (contender("efficientnet_b3", "compiled", "peer", "pytorch"), [2.0]),
        (contender("levit_256", "other", "ours", "openvino"), [9.0]),
    ]
    rows = headlines(measured)
    assert [(r.kind, r.levit, r.other) for r in rows] == [
        ("ours", "ours", "naive"), ("peer", "naive", "naive"), ("peer", "eager", "eager")
    ]  # fmt: skip
    assert [r.leads[0].ratio.median for r in rows] == pytest.approx([3.0, 2.0, 5.0])


def test_published_figures_are_whole_and_plausible():
    assert len(PUBLISHED) == 17 + len(TODAY)
    untimed = {name for name in PUBLISHED if "base" in name or name.startswith("convit")}
    for name, p in PUBLISHED.items():
        speeds = [p.v100, p.xeon, p.arm]
        assert all(s is None for s in speeds) == (name in untimed | {"resnet50", *TODAY})
        assert 70 < p.top1 < 85
        assert math.log2(p.gpu_batch) % 1 == 0
    sizes = [p.image_size[0] for name, p in PUBLISHED.items() if is_efficientnet(name)]
    assert sizes == [224, 240, 260, 300, 380]
