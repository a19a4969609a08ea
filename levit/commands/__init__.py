"""Commands: one module each, with ``run(arguments) -> status``."""
