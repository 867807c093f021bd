"""python -m export: the same as dphr-export."""

import sys

from export.cli import main

sys.exit(main())
