"""Runs `python -m gcn_flax`, the same as `python -m gcn_flax.main`."""

import sys

from gcn_flax.main import main

sys.exit(main())
