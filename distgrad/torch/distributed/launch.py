"""``python -m distgrad.torch.distributed.launch``: the older name of ``run``."""

import sys

from distgrad.torch.distributed.run import main

if __name__ == "__main__":
    sys.exit(main())
