"""What each command of the line does: one module per command, ``run(arguments) -> status``."""
