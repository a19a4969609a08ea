"""``python -m levit``."""

import sys

from levit.cli import main

sys.exit(main())
