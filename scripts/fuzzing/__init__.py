"""What ``scripts/fuzz.py`` and ``tests/fuzz`` share: mutations, seeds, targets, isolation.

An input is bytes, made from (seed, index) by a target's mutations; a target runs levit on it and
judges what comes out. Nothing here is part of the package that users install.
"""
