"""`python -m mlip_jax`: the command line."""

import sys

from mlip_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
