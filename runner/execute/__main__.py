"""`python -m runner.execute PLAN.json --run FOLDER` runs a plan on this machine."""

import sys

from runner.execute.executor import main

sys.exit(main())
