"""`python -m hf_worm`, which is `hf-worm`: for launchers such as `torchrun -m hf_worm glue`."""

import sys

from hf_worm.commands.main import main

sys.exit(main())
