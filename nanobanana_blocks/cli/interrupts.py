"""Ctrl-C and SIGTERM end a command in one line at any moment, also while Python still imports.

Little is imported here, so that it is soon in place.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = "Interrupted. Nothing partial is left; running again goes on from here."
INTERRUPTED_CODE = 130
RAISE_AGAIN_SECONDS = 0.05
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)

_temporary_folders: list[str] = []


def end_at_once_on_interrupt() -> None:
    """Have Ctrl-C and SIGTERM end the process on the spot, while there is nothing to tidy up.

    An exception would come up anywhere within an import, which may swallow it or show a traceback.
    A shell's background job, which ignores Ctrl-C, goes on ignoring it.
    """
    for number in INTERRUPTS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _end_at_once)


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """Have what would end the process on the spot raise `KeyboardInterrupt` within the block.

    It is SIGINT that raises it, and SIGTERM, by which containers and supervisors end a command,
    raises SIGINT: asyncio then cancels what it runs. Where it comes up in a finalizer, Python
    prints it and goes on, so it is raised again.
    """
    ours = [number for number in INTERRUPTS if signal.getsignal(number) is _end_at_once]
    hook = sys.unraisablehook

    def raise_again(swallowed: sys.UnraisableHookArgs) -> None:
        if issubclass(swallowed.exc_type, KeyboardInterrupt):
            threading.Timer(RAISE_AGAIN_SECONDS, _interrupt_main_thread).start()
        else:
            hook(swallowed)

    if ours:
        sys.unraisablehook = raise_again
    for number in ours:
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else _raise_sigint
        )
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _end_at_once)
        sys.unraisablehook = hook


def remove_on_interrupt(folder: str) -> None:
    """Have an interrupt that ends the process on the spot remove this temporary folder first."""
    _temporary_folders.append(folder)


def _end_at_once(_number: int, _frame: object) -> None:
    if _temporary_folders:
        import shutil

        for folder in _temporary_folders:
            shutil.rmtree(folder, ignore_errors=True)
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{INTERRUPTED}\n".encode())
    os._exit(INTERRUPTED_CODE)


def _raise_sigint(_number: int, _frame: object) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def _interrupt_main_thread() -> None:
    """Send it SIGINT, which also ends a wait in the operating system."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
