"""One thread for each process that computes: tests run in parallel, and threads of a tiny model spin for each other."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which reads it then
