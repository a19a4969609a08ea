"""Calls that come while the interpreter ends, when no thread can start: an answer or one line."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from levit import Predictor
predictor = Predictor(sys.argv[1], threads=2, workers=2)
data = [open(path, "rb").read() for path in sys.argv[4:]]
predictor.predict(data)
def ask(predictor=predictor, data=data, calls=sys.argv[3], error=Exception):
    try:
        if calls == "predict":
            print("answered", len(predictor.predict(data)), flush=True)
        elif calls == "stream":
            print("answered", len(list(predictor.stream(data))), flush=True)
        else:
            predictor.close()
            print("answered", len(data), flush=True)
    except error as found:
        print(type(found).__name__, found, flush=True)
class Late:
    def __del__(self, ask=ask):
        ask()
if sys.argv[2] == "atexit":
    import atexit
    atexit.register(ask)
elif sys.argv[2] == "cycle":
    late = Late()
    late.itself = late
    del late
else:
    late = Late()
"""


@pytest.mark.parametrize("call", ["predict", "stream", "close"])
@pytest.mark.parametrize("where", ["atexit", "cycle", "global"])
def test_late_call_answers_or_says_why_not(where, call, make_artifact, digit_paths):
    folder = make_artifact("late")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), where, call, *map(str, digit_paths[:20])],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stderr == ""
    expected = ("answered 20",)
    if where == "global" and call != "close":
        expected = (*expected, "LevitError the interpreter is ending")
    assert run.stdout.startswith(expected)
