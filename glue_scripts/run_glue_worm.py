"""The same as `hf-worm glue`, for who runs scripts: `python glue_scripts/run_glue_worm.py --help`."""

import sys

from hf_worm.commands.glue.command import main

if __name__ == "__main__":
    sys.exit(main())
