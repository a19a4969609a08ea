import dataclasses
import math

import pytest
import records

from levit.benchmarks.intervals import percentile_intervals
from levit.benchmarks.measured import (
    cpu_ms,
    images_per_second,
    latency_ms,
    paper_images_per_second,
    peak_mb,
    stages_ms,
    start_s,
    time_over_cpu,
)
from levit.benchmarks.record import Contender, Measurement, Record, Round
from levit.benchmarks.summary import (
    ceilings,
    comparable,
    comparisons,
    headline_rates,
    over_best_peers,
    register_peaks,
    summaries,
)

MS = 1_000_000


def contender(name, kind="ours", **changes):
    known = dict(
        name=name,
        model="levit_128s",
        engine=name,
        title=name,
        runtime="onnxruntime",
        kind=kind,
        precision="fp32",
        image_size=(224, 224),
        macs=500_000_000,
    )
    return Contender(**known | changes)


def measured(name, rounds, protocol="paper", **changes):
    known = dict(
        contender=name,
        protocol=protocol,
        settings={"batch": 16, "threads": 1, "streams": 1, "device": "cpu"},
        rounds=tuple(rounds),
    )
    return Measurement(**known | changes)


def record(contenders, measurements):
    return Record(
        created="2026-11-20T12:00:00Z",
        command=("levit-bench",),
        status="complete",
        machine={},
        settings={},
        noise={},
        contenders=tuple(contenders),
        measurements=tuple(measurements),
    )


def turn(elapsed_ms, *values_ms, **stages):
    return Round(
        elapsed_ns=elapsed_ms * MS,
        values=tuple(v * MS for v in values_ms),
        stages={k: tuple(v * MS for v in values) for k, values in stages.items()},
    )


def test_images_per_second_are_those_of_whole_rounds():
    # 16 · 2 ÷ 0.1 s, 16 · 2 ÷ 0.2 s, 16 · 4 ÷ 0.1 s
    m = measured("a", [turn(100, 40, 50), turn(200, 90, 100), turn(100, 20, 20, 20, 30)])
    assert images_per_second(m) == (320.0, 160.0, 640.0)


def test_several_streams_take_less_than_the_sum_of_their_calls():
    m = measured("a", [turn(100, 90, 90, 90, 90)], protocol="throughput")
    assert images_per_second(m).median == 640.0


def test_the_papers_figure_is_the_batch_over_the_mean_time():
    m = measured("a", [turn(100, 40, 50), turn(200, 90, 100), turn(10, 20)])
    assert paper_images_per_second(m) == pytest.approx(16 / 0.060)


def test_latency_of_a_single_call():
    m = measured("a", [turn(1, *range(1, 51)), turn(1, *range(51, 102))], protocol="latency")
    found = latency_ms(m)
    assert (found[50].median, found[90].median) == (51, 91)
    assert found[99].median == pytest.approx(100)
    assert all(i.low <= i.median <= i.high for i in found.values())
    # Two rounds that differ: the interval of the median reaches into both.
    assert found[50].low < 40 < 60 < found[50].high


def test_percentiles_together_are_those_one_by_one(rng):
    rounds = [list(rng.gamma(3, size=n)) for n in (30, 500, 1, 0, 44)]
    together = percentile_intervals(rounds, (50, 90, 99))
    assert together == {p: percentile_intervals(rounds, [p])[p] for p in (50, 90, 99)}


def test_intervals_of_percentiles_cover_the_true_one(rng):
    covered = 0
    for _ in range(100):
        rounds = rng.exponential(size=(12, 40))
        found = percentile_intervals([list(r) for r in rounds], [50])[50]
        covered += found.low <= math.log(2) <= found.high
    assert covered >= 85  # of 95 expected


def test_stages_are_in_the_order_in_which_they_happen():
    rounds = [
        turn(9, 6, 7, network=(3, 5), resize=(2, 2), decode=(1, 1), upload=(7, 7)),
        turn(9, 50, network=(4,), resize=(2,), decode=(1,), upload=(7,)),
    ]
    found = stages_ms(measured("a", rounds, protocol="end-to-end"))
    assert list(found) == ["decode", "resize", "network", "upload", "rest"]
    assert list(found.values()) == pytest.approx([1, 2, 4, 7, 7 - 14])


def test_stages_and_the_rest_sum_to_the_median_call(rng):
    rounds = []
    for _ in range(6):
        stages = {n: tuple(map(float, rng.gamma(3, size=25))) for n in ("decode", "network")}
        whole = [1 + value for value in rng.gamma(6, size=25)]
        rounds.append(turn(300, *whole, **stages))
    m = measured("a", rounds, protocol="end-to-end")
    found = stages_ms(m)
    assert list(found) == ["decode", "network", "rest"]
    assert sum(found.values()) == pytest.approx(latency_ms(m)[50].median)


def test_stages_are_of_typical_calls_and_not_of_none():
    """In every call one of the two is slow: each one's median is of no call at all."""
    slow = dict(decode=(1, 9, 1, 9, 1, 9, 1, 1), network=(9, 1, 9, 1, 9, 1, 9, 9))
    rounds = [turn(90, *[10] * 8, **slow)]
    found = stages_ms(measured("a", rounds, protocol="end-to-end"))
    assert found["rest"] == pytest.approx(0)


def test_a_machine_that_changes_its_speed_is_no_rest():
    totals = (10, 100, 10, 100, 30)
    rounds = [
        turn(900, *(t + 1 for t in totals), decode=tuple(t / 5 for t in totals),
             network=tuple(t * 4 / 5 for t in totals))
    ]  # fmt: skip
    found = stages_ms(measured("a", rounds, protocol="end-to-end"))
    assert found == pytest.approx({"decode": 6, "network": 24, "rest": 1})


def test_an_engine_without_stages_is_all_rest():
    rounds = [turn(9, 3, 4, 5, decode=(0, 0, 0), network=(0, 0, 0))]
    found = stages_ms(measured("a", rounds, protocol="end-to-end"))
    assert found == {"decode": 0, "network": 0, "rest": 4}


def test_stages_of_older_records_were_the_whole_call():
    rounds = [turn(9, 7, 8, infer=(3, 4), resize=(3, 3), decode=(1, 1))]
    found = stages_ms(measured("a", rounds, protocol="end-to-end"))
    assert found == pytest.approx({"decode": 1, "resize": 3, "network": 3.5})


def test_many_images_are_counted_by_their_settings_and_cost_cpu_time():
    rounds = [turn(200, 90, 110, cpu=(150, 210)), turn(100, 100, cpu=(160,)), turn(50, 50)]
    settings = {"batch": 16, "images": 128, "threads": 2}
    m = measured("a", rounds, protocol="end-to-end-many", settings=settings)
    assert images_per_second(m) == (1280, 1280, 2560)
    assert cpu_ms(m) == pytest.approx((170 / 128, 160 / 128, 180 / 128))
    assert time_over_cpu(m) == pytest.approx(((400 / 360 + 200 / 160) / 2, 400 / 360, 200 / 160))
    assert stages_ms(m) == {}
    other = dataclasses.replace(m, protocol="latency")
    assert (cpu_ms(other), time_over_cpu(other)) == (None, None)


def test_engines_batches_may_differ_where_many_images_are_one_call():
    them = [contender("a"), contender("b", "peer")]
    m = []
    for name, batch in (("a", 8), ("b", 16)):
        settings = {"batch": batch, "images": 128, "threads": 2}
        rounds = [turn(100 * (1 + (name == "b")), 1)] * 6
        m.append(measured(name, rounds, protocol="end-to-end-many", settings=settings))
    (found,) = comparisons(record(them, m))
    assert (found.quantity, found.ratio.median) == ("speed", 2)


def test_one_image_is_compared_by_the_latency_of_whole_calls():
    them = [contender("a"), contender("b", "peer")]
    m = [
        measured(name, [turn(900, 2 * v, 2 * v, 300, network=(9,))] * 6, protocol="end-to-end")
        for name, v in (("a", 1), ("b", 3))
    ]
    (found,) = comparisons(record(them, m))
    assert (found.quantity, found.ratio.median) == ("latency", 3)


def test_cold_start_and_memory():
    m = measured("a", [turn(240, 240), turn(250, 250), turn(230, 230)], protocol="cold-start")
    assert start_s(m) == (0.24, 0.23, 0.25)
    rounds = [Round(elapsed_ns=1, values=(v,)) for v in (120_000_000, 100_000_000)]
    m = measured("a", rounds, protocol="memory")
    assert peak_mb(m) == (110.0, 100.0, 120.0)
    assert images_per_second(m) is None
    assert start_s(m) is None
    assert latency_ms(m) == {}


@pytest.mark.parametrize(
    "rounds", [(), (Round(elapsed_ns=5, values=()),), (Round(elapsed_ns=0, values=(0,)),)]
)
@pytest.mark.parametrize("protocol", ["paper", "latency", "cold-start", "memory", "end-to-end"])
def test_nothing_measured_gives_no_figure(rounds, protocol):
    r = record([contender("a"), contender("b", "peer")], [])
    m = [measured(name, rounds, protocol=protocol) for name in "ab"]
    for item in summaries(dataclasses.replace(r, measurements=tuple(m))):
        assert item.images_per_s is None
        assert item.paper_images_per_s is None
        assert item.ceiling_fraction is None


def test_the_ceiling_is_the_best_product_of_that_precision_and_threads():
    top = dict(model="matmul", macs=10**9)
    them = [
        contender("a"),
        contender("m1", "ceiling", **top),
        contender("m2", "ceiling", **top),
        contender("m3", "ceiling", precision="bf16", **top),
    ]
    one = {"batch": 1, "threads": 1}
    r = record(
        them,
        [
            measured("a", [turn(160, 160)]),  # 100 images/s, 1 GFLOP each: 100 GFLOP/s
            measured("m1", [turn(20, 10, 10)], settings=one),  # 200 GFLOP/s
            measured("m2", [turn(25, 10, 10)], settings=one),
            measured("m3", [turn(10, 10)], settings=one),
            measured("m1", [turn(5, 10, 10)], settings={"batch": 1, "threads": 2}),
            measured("m2", [turn(1, 10)], settings=one, status="wrong", reason="no product"),
        ],
    )
    assert ceilings(r) == {("fp32", 1): 200.0, ("bf16", 1): 200.0, ("fp32", 2): 800.0}
    ours = summaries(r)[0]
    assert ours.gflop_per_s.median == pytest.approx(100)
    assert ours.ceiling_fraction == pytest.approx(0.5)


def test_ratios_are_of_neighbouring_rounds():
    # The machine slows down by half: each pair still says 1.25.
    fast = [turn(100 * k, 100 * k) for k in (1, 1, 2, 2, 4, 4)]
    slow = [turn(125 * k, 125 * k) for k in (1, 1, 2, 2, 4, 4)]
    r = record([contender("a"), contender("b", "peer")], [measured("a", fast), measured("b", slow)])
    (found,) = comparisons(r)
    assert found.ratio == pytest.approx((1.25, 1.25, 1.25))
    assert (found.verdict, found.pairs, found.quantity) == ("faster", 6, "speed")


def test_an_interrupted_run_has_unequal_rounds():
    r = record(
        [contender("a"), contender("b", "peer")],
        [
            measured("a", [turn(100, 100), Round(elapsed_ns=0, values=()), turn(100, 100)] * 4),
            measured("b", [turn(50, 50)] * 9),
        ],
    )
    (found,) = comparisons(r)
    assert (found.pairs, found.verdict) == (6, "slower")


@pytest.mark.parametrize("protocol", ["latency", "cold-start", "memory"])
def test_where_less_is_better_the_ratio_is_turned(protocol):
    r = record(
        [contender("a"), contender("b", "peer")],
        [
            measured("a", [turn(100, 100)] * 6, protocol=protocol),
            measured("b", [turn(200, 200)] * 6, protocol=protocol),
        ],
    )
    (found,) = comparisons(r)
    assert found.ratio.median == 2.0
    assert found.verdict == "faster"


def test_only_equals_are_compared():
    them = [
        contender("a"),
        contender("b", "peer"),
        contender("c", "peer", model="levit_256"),
        contender("d", "peer"),
        contender("e", "ceiling"),
        contender("f", "peer"),
    ]
    ms = [measured(name, [turn(100, 100)] * 6) for name in "abcde"]
    ms[3] = dataclasses.replace(ms[3], settings={"batch": 1})
    ms.append(measured("f", [turn(100, 100)] * 6, status="wrong", reason="other answers"))
    found = comparisons(record(them, ms))
    assert [(c.ours.name, c.peer.name, c.verdict) for c in found] == [("a", "b", "equal")]


def test_the_best_batch_and_streams_may_differ():
    ours = measured("a", [turn(100, 100)] * 6, protocol="throughput")
    found = dict(ours.settings) | {"batch": 8, "streams": 2}
    theirs = dataclasses.replace(ours, contender="b", settings=found)
    r = record([contender("a"), contender("b", "peer")], [ours, theirs])
    assert comparisons(r)[0].ratio.median == 2.0


def test_rates_for_the_headline():
    r = records.build(models=("levit_128s", "efficientnet_b0"), rounds=4)
    found = headline_rates(r, "paper")
    assert {c.model for c, _ in found} == {"levit_128s", "efficientnet_b0"}
    assert all(len(rates) == 4 and c.kind != "ceiling" for c, rates in found)
    assert headline_rates(r, "memory") == []


def rounds_of(ms, count=6):
    """Rounds of one call each, of so many milliseconds."""
    return [Round(elapsed_ns=int(ms * MS), values=(int(ms * MS),)) for _ in range(count)]


def side_by_side(protocol="paper"):
    """Ours on a runtime of its own and on a shared one, beside peers of two precisions."""
    entries = {
        "shared": ("ours", "onnxruntime", "fp32", 9),
        "native": ("ours", "native", "fp32", 5),
        "slow": ("peer", "onnxruntime", "fp32", 12),
        "fast": ("peer", "openvino", "fp32", 8),
        "bf16": ("peer", "openvino", "bf16", 4),
    }
    found = [
        contender(name, kind, runtime=runtime, precision=precision)
        for name, (kind, runtime, precision, _) in entries.items()
    ]
    taken = [measured(name, rounds_of(entry[3]), protocol) for name, entry in entries.items()]
    return record(found, taken)


@pytest.mark.parametrize("protocol", ["paper", "latency"])
def test_the_best_peer_is_the_fastest_of_the_same_precision(protocol):
    found = over_best_peers(comparisons(side_by_side(protocol)))
    assert [(c.ours.name, c.peer.name) for c in found] == [("shared", "fast"), ("native", "fast")]
    assert [c.ratio.median for c in found] == pytest.approx([8 / 9, 8 / 5])


def test_an_engine_on_a_runtime_of_its_own_is_judged_by_the_best_peer():
    judged = [(c.ours.name, c.peer.name) for c in comparisons(side_by_side()) if c.is_judged]
    assert judged == [("shared", "slow"), ("native", "fast")]


@pytest.mark.parametrize("turned", [False, True], ids=["named last", "named first"])
def test_ours_beside_ours_is_compared_and_not_judged(turned):
    run = side_by_side()
    if turned:
        run = dataclasses.replace(run, measurements=run.measurements[::-1])
    found = comparisons(run)
    (own,) = [c for c in found if c.peer.kind == "ours"]
    assert (own.ours.name, own.peer.name) == ("native", "shared")
    assert own.ratio.median == pytest.approx(9 / 5)
    assert not own.is_judged


def test_peers_of_another_precision_or_runtime_cannot_be_compared():
    ours = contender("native", runtime="native")
    assert comparable(ours, contender("peer", "peer"))
    assert not comparable(ours, contender("peer", "peer", precision="bf16"))
    assert not comparable(ours, contender("other"))  # ours
    assert not comparable(contender("shared"), contender("peer", "peer", runtime="openvino"))


def test_registers_are_a_ceiling_apart_from_the_products():
    top = dict(macs=10**9, engine="m")
    found = record(
        [
            contender("ours"),
            contender("product", "ceiling", model="matmul", **top),
            contender("peak", "ceiling", model="registers", **top),
        ],
        [
            measured("ours", rounds_of(160)),  # 100 images/s of a GFLOP each
            measured("product", rounds_of(10), settings={"batch": 1, "threads": 1}),
            measured("peak", rounds_of(8), settings={"batch": 1, "threads": 1}),
        ],
    )
    assert ceilings(found) == {("fp32", 1): pytest.approx(200)}
    assert register_peaks(found) == {("fp32", 1): pytest.approx(250)}
    ours = summaries(found)[0]
    assert ours.ceiling_fraction == pytest.approx(0.5)
    assert ours.register_fraction == pytest.approx(0.4)
