"""Code that ``scripts/fuzz.py`` and ``tests/fuzz`` share: damage, seeds, targets, isolation.

An input is bytes, which a target's Hypothesis strategy draws: a seed with something wrong with it.
A target runs levit on an input and judges the answer. Nothing here is installed with the package.
"""
