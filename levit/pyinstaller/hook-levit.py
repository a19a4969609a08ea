"""PyInstaller: what a program that imports levit needs and no import statement names.

Sessions, probes and commands are imported by name when they are first used, and the native engine
is a library that Python does not import. A backend comes with its session where it is installed:
``--exclude-module openvino`` keeps one out.
"""

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs, collect_submodules

_BY_NAME = ("levit.runtime", "levit.native", "levit.pictures")

hiddenimports = [name for package in _BY_NAME for name in collect_submodules(package)]
binaries = collect_dynamic_libs("levit.native", search_patterns=["*.so", "*.dylib", "*.dll"])
# Labels of ImageNet: a few kilobytes. The pictures of levit_digits are for exports and tests.
datas = collect_data_files("levit", includes=["data/*.txt"])
