"""Ctrl-C ends a command in one line at any moment, also while Python still imports.

Little is imported here, so that it is soon in place.
"""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = "Interrupted. Nothing partial is left; running again goes on from here."
INTERRUPTED_CODE = 130

_temporary_folders: list[str] = []


def end_at_once_on_interrupt() -> bool:
    """Have Ctrl-C end the process on the spot, while there is nothing to tidy up; tell if it does.

    An exception would come up anywhere within an import, which may swallow it or show a traceback.
    A shell's background job, which ignores Ctrl-C, goes on ignoring it.
    """
    ours = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL)
    if ours:
        signal.signal(signal.SIGINT, _end_at_once)
    return ours


def raise_on_interrupt() -> bool:
    """Have Ctrl-C raise `KeyboardInterrupt`, as asyncio expects; tell whether it ended at once."""
    ended_at_once = signal.getsignal(signal.SIGINT) is _end_at_once
    if ended_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return ended_at_once


def remove_on_interrupt(folder: str) -> None:
    """Have a Ctrl-C that ends the process on the spot remove this temporary folder first."""
    _temporary_folders.append(folder)


def _end_at_once(_number: int, _frame: object) -> None:
    if _temporary_folders:
        import shutil

        for folder in _temporary_folders:
            shutil.rmtree(folder, ignore_errors=True)
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{INTERRUPTED}\n".encode())
    os._exit(INTERRUPTED_CODE)
