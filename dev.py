#!/usr/bin/env python3
"""The developer's one command: `python dev.py demo | test | check | host | doctor`."""

import sys

# Checked before anything else is imported: older Pythons cannot even parse the rest.
if sys.version_info < (3, 10):
    sys.exit("dev.py needs Python 3.10 or newer; this is Python %s." % sys.version.split()[0])

from tools.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
