from dataclasses import replace

import pytest

from levit.benchmarks.compare import compare
from levit.benchmarks.record import Contender, Measurement, Record, Round
from levit.errors import ConfigError

MACHINE = {"cpu": {"model": "A CPU", "usable": 2}, "versions": {"onnxruntime": "1.31"}}


def contender(**changes):
    values = dict(
        name="levit_128s · ours",
        model="levit_128s",
        engine="levit-onnx",
        title="ours",
        runtime="onnxruntime",
        kind="ours",
        precision="fp32",
        image_size=(224, 224),
        macs=1000,
    )
    return Contender(**{**values, **changes})


def measured(times_ms, protocol="latency", **settings):
    base = {"batch": 1, "threads": 2, "streams": 1, "device": "cpu", "seconds": 1.0, "rounds": 9}
    rounds = [Round(elapsed_ns=int(t * 1e6), values=(int(t * 1e6),)) for t in times_ms]
    return Measurement(
        contender="levit_128s · ours",
        protocol=protocol,
        settings={**base, **settings},
        rounds=tuple(rounds),
    )


def record(measurement, kernel_ns=8_000_000, **changes):
    samples = [{"at_s": float(i), "kernel_ns": [kernel_ns]} for i in range(5)]
    values = dict(
        created="2026-11-20T12:00:00+00:00",
        command=("levit", "bench"),
        status="complete",
        machine=MACHINE,
        settings={"photographs": "drawn", "pictures": 16},
        noise={"cpus": 2, "samples": samples},
        contenders=(contender(),),
        measurements=(measurement,),
    )
    return Record(**{**values, **changes})


def steady(ms):
    return [ms * (1 + 0.001 * (i % 3)) for i in range(9)]


@pytest.mark.parametrize(
    ("ms", "verdict"), [(8.0, "faster"), (10.0, "equal"), (10.1, "equal"), (12.0, "slower")]
)
def test_latencies_are_turned_into_speeds(ms, verdict):
    (change,) = compare(record(measured(steady(10.0))), record(measured(steady(ms)))).changes
    assert change.verdict == verdict
    assert change.ratio.median == pytest.approx(10 / ms, rel=1e-6)
    assert (change.quantity, change.rounds) == ("p50 ms", 9)


def test_what_the_machine_itself_lost_is_not_called_a_loss():
    before = record(measured(steady(10.0)))
    after = record(measured(steady(10.5)), kernel_ns=8_400_000)  # it was 5 % slower
    found = compare(before, after)
    assert found.drift == pytest.approx(0.05)
    assert found.changes[0].verdict == "cannot tell"
    # Much more than that is.
    worse = compare(before, record(measured(steady(13.0)), kernel_ns=8_400_000))
    assert worse.changes[0].verdict == "slower"


def test_memory_does_not_depend_on_how_busy_the_machine_is():
    before = record(measured(steady(100.0), "memory"))
    after = record(measured(steady(90.0), "memory"), kernel_ns=16_000_000)
    (change,) = compare(before, after).changes
    assert (change.quantity, change.verdict) == ("MB", "faster")


def test_five_rounds_say_nothing():
    short = record(measured(steady(12.0)[:5]))
    assert compare(record(measured(steady(10.0))), short).changes[0].verdict == "cannot tell"


def test_versions_and_states_are_told():
    other = {**MACHINE, "versions": {"onnxruntime": "1.32"}}
    after = record(measured(steady(10.0)), machine=other, status="interrupted")
    lines = compare(record(measured(steady(10.0))), after).circumstances
    assert any("onnxruntime: 1.31 in the first, 1.32 in the second" in line for line in lines)
    assert any("interrupted" in line for line in lines)


def test_batch_and_streams_of_throughput_may_differ_and_of_others_not():
    before = record(measured(steady(10.0), "throughput", batch=8))
    after = record(measured(steady(10.0), "throughput", batch=16, streams=2))
    assert compare(before, after).changes
    with pytest.raises(ConfigError, match="batch is 8 in one and 16"):
        compare(
            record(measured(steady(10.0), "paper", batch=8)),
            record(measured(steady(10.0), "paper", batch=16)),
        )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(machine={**MACHINE, "cpu": {"model": "Another"}}), "different machines"),
        (dict(contenders=(contender(macs=2000),)), "multiply-accumulates is 1000 in one and 2000"),
        (dict(contenders=(contender(image_size=(256, 256)),)), "image size"),
        (dict(measurements=()), "nothing to compare"),
    ],
)
def test_other_work_is_refused(change, line):
    before = record(measured(steady(10.0)))
    with pytest.raises(ConfigError, match=line):
        compare(before, replace(before, **change))


def test_what_only_one_has_is_named():
    before = record(measured(steady(10.0)))
    both = replace(before, measurements=(measured(steady(10.0)), measured(steady(5.0), "paper")))
    found = compare(both, replace(both, measurements=(both.measurements[0],)))
    assert found.only_before == ("levit_128s · ours (paper)",)
