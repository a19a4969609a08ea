"""Coverage-guided fuzzing with atheris: inputs that reach new lines of levit or Pillow are kept."""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from pathlib import Path

__all__ = ["run_atheris"]


class FailedError(Exception):
    """An input that has failed; atheris stops at it and stores it."""


def run_atheris(name: str, runs: int, seed: int, folder: Path, output: Path) -> int:
    """Execute a target `runs` times; what fails first is written to `output`.

    Does not return: atheris ends the process, with a status other than 0 after a failure.
    """
    try:
        import atheris
    except ImportError:
        print("error: atheris is not installed: pip install atheris", file=sys.stderr)
        return 1
    with atheris.instrument_imports(include=["levit", "PIL"], enable_loader_override=False):
        from fuzzing.target import examine
        from fuzzing.targets import prepared

        target = prepared(name, folder)
    corpus, work = folder / "corpus", folder / "input"
    corpus.mkdir()
    for i, data in enumerate(target.seeds()):
        (corpus / str(i)).write_bytes(data)
    counts: Counter[str] = Counter()

    def attempt(data: bytes) -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        outcome = examine(target, data, work)
        counts[outcome.kind] += 1
        if counts.total() in (runs // 2, runs) or outcome.failed:
            said = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
            print(f"{name}: {counts.total()} executions: {said}", file=sys.stderr)
        if outcome.failed:
            raise FailedError(f"{outcome.kind} at {outcome.place}\n{outcome.detail}")

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(rng, data)[:max_size]

    output.mkdir(parents=True, exist_ok=True)
    longest = 2 * max(map(len, target.seeds()))
    flags = [f"-atheris_runs={runs}", f"-seed={seed + 1}", f"-max_len={longest}", "-timeout=120"]
    flags += ["-rss_limit_mb=6000", f"-artifact_prefix={output}/{name}-atheris-", "-len_control=0"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], attempt, custom_mutator=mutate)
    atheris.Fuzz()
    return 0
