"""Every command and snippet of README and docs runs, and prints what the page shows."""

import pytest
from snippets import MODULES, NEVER, ROOT, RUN, SHOWN, SLOW, Session, blocks, pages

BLOCKS = {page.relative_to(ROOT).as_posix(): blocks(page) for page in pages()}
EVERY = [block for page_blocks in BLOCKS.values() for block in page_blocks]


def _marked(block):
    names = {"docs", "peers"} & {*block.needs}  # markers of tests/conftest.py
    if block.is_slow:
        names.add("slow")
    return pytest.param(block, marks=[getattr(pytest.mark, name) for name in names], id=str(block))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """(page) → the folder in which its blocks run."""
    opened = {}

    def session(page):
        if page not in opened:
            opened[page] = Session(tmp_path_factory.mktemp("page"), BLOCKS[page])
        return opened[page]

    return session


@pytest.mark.parametrize(
    "block", [_marked(block) for block in EVERY if block.language in RUN or block.title]
)
def test_block_runs(block, sessions, monkeypatch):
    lacking = block.lacks()
    if lacking is not None:
        pytest.skip(f"{block} needs {lacking}")
    session = sessions(block.page)
    monkeypatch.chdir(session.folder)
    monkeypatch.syspath_prepend(session.folder)
    session.run_to(block)


@pytest.mark.parametrize("block", EVERY, ids=str)
def test_block_says_its_language_and_known_needs(block):
    assert block.language in (*RUN, *SHOWN)
    assert set(block.needs) <= {*MODULES, *NEVER, SLOW}
