"""Work for several CPUs."""

import threading

import pytest

from levit.export.threads import in_threads


def test_results_come_in_the_order_of_the_items(monkeypatch):
    monkeypatch.setattr("levit.export.threads.available_cpus", lambda: 2)
    second = threading.Event()

    def wait(item):
        if item == 0:
            assert second.wait(30), "one at a time"
        second.set()
        return item * item

    assert list(in_threads(wait, range(9))) == [n * n for n in range(9)]


def test_an_error_is_raised_where_its_result_would_be():
    found = in_threads(lambda item: 1 // item, [1, 0, 2])
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
