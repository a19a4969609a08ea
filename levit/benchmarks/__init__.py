"""What is measured, and how: ``python -m levit.benchmarks.main_path --help``."""
