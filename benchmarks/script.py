"""One benchmark as the script that it is: ``python -m benchmarks.script NAME [OPTION…]``.

However it judges its goals, the exit status is 0; a crash shows its trace and exits with 1.
"""

from __future__ import annotations

import runpy
import sys
from contextlib import suppress

from benchmarks.processes import interrupt_on_sigterm

if __name__ == "__main__":
    _, name, *options = sys.argv
    interrupt_on_sigterm()
    sys.argv = [name, *options]
    with suppress(SystemExit):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
