"""python -m bench: the same as dphr-bench."""

import sys

from bench.cli import main

sys.exit(main())
