"""Faults that would cost money, each put into a copy of the code: a test must notice every one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change to the code: `old`, which stands once in `module`, becomes `new`.

    Attributes:
        fault: What it would cost.
        test: The test, or its beginning, that notices it; below tests/.
    """

    fault: str
    module: str
    old: str
    new: str
    test: str


SUBMITTER = "batches/submitter.py"
LEDGER = "batches/ledger.py"
SUBMITTING = "api/submitting.py"
LEASES = "batches/leases.py"
CLAIMS = "batches/claims.py"
BATCH = "batches/batch.py"
ATTEMPTS = "batches/attempts.py"

MUTANTS = [
    Mutant(
        "a row whose task is known is submitted again",
        SUBMITTER,
        "return (changed and Failure.CHANGED in self._retry) or entry.failure in self._retry",
        "return True",
        "",
    ),
    Mutant(
        "a changed row is submitted again, although it was not asked for",
        SUBMITTER,
        "return (changed and Failure.CHANGED in self._retry) or entry.failure in self._retry",
        "return changed or entry.failure in self._retry",
        "",
    ),
    Mutant(
        "a row that may have been paid for is submitted again unasked",
        SUBMITTER,
        "return Failure.UNCONFIRMED in self._retry",
        "return True",
        "",
    ),
    Mutant(
        "a failed row is submitted again unasked",
        SUBMITTER,
        "return changed or entry.failure in self._retry",
        "return True",
        "",
    ),
    Mutant(
        "of two runs that reserve a row, both submit it",
        SUBMITTER,
        "        if not ours:\n            return entry\n",
        "",
        "",
    ),
    Mutant(
        "another run's reservation is taken for one's own",
        LEDGER,
        "return found, False",
        "return found, True",
        "",
    ),
    Mutant(
        "an attempt that another run has created counts as created",
        LEDGER,
        "if await self._folder.read(name) == data:  # it took effect, and its answer was lost",
        "if await self._folder.read(name):",
        "",
    ),
    Mutant(
        "a reservation whose answer was lost counts as another's, for ever",
        LEDGER,
        "if await self._folder.read(name) == data:  # it took effect, and its answer was lost",
        "if False:",
        "",
    ),
    Mutant(
        "without exclusive creation an attempt that is there is made again",
        LEDGER,
        "if await self._folder.size_of(name) is not None:",
        "if False:",
        "",
    ),
    Mutant(
        "a ledger that has vanished is made anew, empty",
        LEDGER,
        "if self._mark and await self._folder.read(MARK) != self._mark:",
        "if False:",
        "",
    ),
    Mutant(
        "an entry that cannot be read is no entry",
        LEDGER,
        'return unreadable_attempt(key, int(parts["attempt"]), self._folder.path_of(name))',
        "return None",
        "",
    ),
    Mutant(
        "an answer that could not be written is forgotten when the file is read",
        LEDGER,
        "if found and not (known and found.is_unanswered and _may_be_same(found, known)):",
        "if found:",
        "",
    ),
    Mutant(
        "an entry under another's name is believed",
        LEDGER,
        "if entry.file_name == name:",
        "if True:",
        "",
    ),
    Mutant(
        "the next attempt takes the number of one that was made",
        LEDGER,
        "attempt=max(self._attempts.get(row.key, ()), default=0) + 1,",
        "attempt=1,",
        "",
    ),
    Mutant(
        "a released attempt counts as one that was made, and its row is never submitted",
        LEDGER,
        "made = (n for n, entry in attempts.items() if entry.state is not AttemptState.RELEASED)",
        "made = iter(attempts)",
        "",
    ),
    Mutant(
        "the reservation is written after the submit, not before it",
        LEDGER,
        "                created = await self._create(entry)\n",
        "                created = True\n",
        "",
    ),
    Mutant(
        "a submit without an answer counts as refused, and is sent again",
        SUBMITTING,
        "    raise UnconfirmedSubmit(\n",
        "    raise error\n    raise UnconfirmedSubmit(\n",
        "",
    ),
    Mutant(
        "a submit is sent again after an answer that was lost",
        SUBMITTING,
        "elif isinstance(error, NetworkError) and not error.sent:",
        "elif isinstance(error, NetworkError):",
        "",
    ),
    Mutant(
        "a submit goes over a connection that the server is closing",
        SUBMITTING,
        "fresh=True,",
        "fresh=False,",
        "",
    ),
    Mutant(
        "a submit refused for good is in doubt for ever",
        SUBMITTING,
        "(Unauthorized, Forbidden, OutOfCredits, BadRequest)",
        "(Unauthorized, Forbidden, OutOfCredits)",
        "",
    ),
    Mutant(
        "maintenance leaves rows in doubt",
        SUBMITTING,
        "if is_maintenance or isinstance",
        "if isinstance",
        "",
    ),
    Mutant(
        "submitting goes on although nothing is answered",
        SUBMITTER,
        "if self._unconfirmed_in_a_row >= MAX_UNCONFIRMED_IN_A_ROW:",
        "if False:",
        "",
    ),
    Mutant(
        "submitting goes on although everything is refused with 403",
        SUBMITTER,
        "if self._forbidden_in_a_row >= MAX_FORBIDDEN_IN_A_ROW:",
        "if False:",
        "",
    ),
    Mutant(
        "after a submit without an answer the next is sent into the outage",
        SUBMITTER,
        "                await self._wait_until_up()\n",
        "",
        "",
    ),
    Mutant(
        "submitting goes on without credits",
        SUBMITTER,
        'self._no_more = OutOfCredits(f"{error.message} This row was not submitted.")\n'
        "            error = self._no_more",
        "pass",
        "",
    ),
    Mutant(
        "submitting goes on with a key that is refused",
        SUBMITTER,
        "            error.is_fatal = True\n            self._no_more = error\n",
        "            pass\n",
        "",
    ),
    Mutant(
        "cancelling leaves a submit under way in doubt",
        SUBMITTER,
        "return await finish_despite_cancellation(\n"
        "                        self._submit(row, request, submit), LAST_SUBMIT_SECONDS\n"
        "                    )",
        "return await self._submit(row, request, submit)",
        "",
    ),
    Mutant(
        "a task is not noted, so that a later run takes the row for unconfirmed",
        SUBMITTER,
        "return await self.ledger.submitted(entry, task_id)\n        except",
        "return entry\n        except",
        "",
    ),
    Mutant(
        "a release that failed is silent",
        SUBMITTER,
        "            await self.ledger.release(entry)\n",
        "            pass\n",
        "",
    ),
    Mutant(
        "the living are waited for as if they were dead",
        SUBMITTER,
        "if liveness in (Liveness.DEAD, Liveness.ENDED):",
        "if True:",
        "",
    ),
    Mutant(
        "the dead are waited for as if they were living",
        SUBMITTER,
        "if liveness in (Liveness.DEAD, Liveness.ENDED):",
        "if False:",
        "",
    ),
    Mutant(
        "what a run wrote just before it died is not read",
        SUBMITTER,
        "            with suppress(StorageError):  # its last word may have come since we read\n"
        "                await self.ledger.read_again(entry)\n",
        "",
        "",
    ),
    Mutant(
        "what a living run lands is fetched as well",
        CLAIMS,
        "if owner and owner != own and await self._is_alive(owner):",
        "if False:",
        "",
    ),
    Mutant(
        "what a dead run has claimed is landed by nobody",
        CLAIMS,
        "in (Liveness.AT_WORK, Liveness.UNKNOWN)",
        "in Liveness",
        "",
    ),
    Mutant(
        "a row whose receipt is there is not recognised, and is submitted again",
        BATCH,
        "if receipt and row.request and receipt.row_key == row.key:",
        "if False:",
        "",
    ),
    Mutant(
        "another row's receipt is adopted",
        BATCH,
        "if receipt and row.request and receipt.row_key == row.key:",
        "if receipt and row.request:",
        "",
    ),
]
