"""One benchmark as the script that it is: ``python -m benchmarks.script NAME [OPTION…]``.

However it judges its goals, the exit status is 0; a crash shows its trace and exits with 1. At the
end it says how much CPU it took, in this process and in those that it started.
"""

from __future__ import annotations

import runpy
import sys
from contextlib import suppress

from benchmarks.processes import cpu_of_all, interrupt_on_sigterm

if __name__ == "__main__":
    _, name, *options = sys.argv
    interrupt_on_sigterm()
    sys.argv = [name, *options]
    with suppress(SystemExit):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    print(f"--- CPU {cpu_of_all():.0f} s", flush=True)
