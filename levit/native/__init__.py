"""The CPU engine as Python sees it: programs, their checks, the library and what it runs."""
