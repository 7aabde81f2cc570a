"""`python -m simnet.virtual`: as `python -m simnet virtual`, without the real daemons' parts."""

import sys

from simnet.virtual.cli import main

sys.exit(main())
