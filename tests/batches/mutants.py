"""Faults that would cost money, each put into a copy of the code: a test must notice every one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change to the code: `old`, which stands once in `module`, becomes `new`.

    Attributes:
        fault: What it would cost.
        test: The test, its class or its file, that notices it; beside this file.
    """

    fault: str
    module: str
    old: str
    new: str
    test: str


SUBMITTER = "batches/submitter.py"
LEDGER = "batches/ledger.py"
LEDGER_MARK = "batches/ledger_mark.py"
SUBMITTING = "api/submitting.py"
LEASES = "batches/leases.py"
CLAIMS = "batches/claims.py"
TAKEN_NAMES = "batches/taken_names.py"
ATTEMPTS = "batches/attempts.py"
POLICIES = "batches/policies.py"
CREDIT_LIMIT = "batches/credit_limit.py"
REQUESTS = "api/requests.py"
ROWS = "batches/manifest/rows.py"

MUTANTS = [
    Mutant(
        "a row whose task is known is submitted again",
        POLICIES,
        "return (changed and Failure.CHANGED in self.retry) or entry.failure in self.retry",
        "return True",
        "test_batch.py::test_running_again_submits_nothing",
    ),
    Mutant(
        "a changed row is submitted again, although it was not asked for",
        POLICIES,
        "return (changed and Failure.CHANGED in self.retry) or entry.failure in self.retry",
        "return changed or entry.failure in self.retry",
        "test_batch.py::test_a_landed_row_that_was_changed_is_told_and_left",
    ),
    Mutant(
        "a row that may have been paid for is submitted again unasked",
        POLICIES,
        "return Failure.UNCONFIRMED in self.retry",
        "return True",
        "test_batch.py::test_a_lost_answer_is_unconfirmed_and_not_repeated",
    ),
    Mutant(
        "a failed row is submitted again unasked",
        POLICIES,
        "            return entry.failure in self.retry\n",
        "            return True\n",
        "test_batch.py::test_refused_rows_stay_refused_until_asked",
    ),
    Mutant(
        "of two runs that reserve a row, both submit it",
        SUBMITTER,
        "        if not ours:\n            return entry\n",
        "",
        "test_ledger.py::test_a_row_that_another_run_reserves_first_is_not_submitted",
    ),
    Mutant(
        "another run's reservation is taken for one's own",
        LEDGER,
        "return found, False",
        "return found, True",
        "test_ledger.py::test_a_row_that_another_run_reserves_first_is_not_submitted",
    ),
    Mutant(
        "an attempt that another run has created counts as created",
        LEDGER,
        "if await self._folder.read(name) == data:  # it took effect, and its answer was lost",
        "if await self._folder.read(name):",
        "test_ledger.py::test_a_row_that_another_run_reserves_first_is_not_submitted",
    ),
    Mutant(
        "a reservation whose answer was lost counts as another's, for ever",
        LEDGER,
        "if await self._folder.read(name) == data:  # it took effect, and its answer was lost",
        "if False:",
        "test_ledger.py::test_a_reservation_whose_answer_is_lost_is_ones_own",
    ),
    Mutant(
        "without exclusive creation an attempt that is there is made again",
        LEDGER,
        "if await self._folder.size_of(name) is not None:",
        "if False:",
        "test_ledger.py::test_without_exclusive_creation_an_entry_is_looked_for",
    ),
    Mutant(
        "a ledger that has vanished is made anew, empty",
        LEDGER_MARK,
        "if found == self._found:",
        "if True:",
        "test_overlapping_runs.py::TestPaying::test_a_destination_that_is_deleted_in_mid_run",
    ),
    Mutant(
        "a ledger put in the place of another is taken for one that two runs have marked",
        LEDGER_MARK,
        "return own_entry is None or await self._folder.size_of(own_entry) is not None",
        "return True",
        "test_ledger.py::test_without_exclusive_creation_two_first_runs_share_a_ledger",
    ),
    Mutant(
        "an entry that cannot be read is no entry",
        LEDGER,
        'return unreadable_attempt(key, int(parts["attempt"]), self._folder.path_of(name))',
        "return None",
        "test_batch.py::test_a_damaged_entry_concerns_its_row_only",
    ),
    Mutant(
        "an answer that could not be written is forgotten when the file is read",
        LEDGER,
        "if found and not (known and found.is_unanswered and _may_be_same(found, known)):",
        "if found:",
        "test_ledger.py::test_an_answer_that_cannot_be_written_stays_known",
    ),
    Mutant(
        "an entry under another's name is believed",
        LEDGER,
        "if entry.file_name == name:",
        "if True:",
        "test_ledger.py::test_an_entry_under_another_rows_name_is_not_believed",
    ),
    Mutant(
        "the next attempt takes the number of one that was made",
        LEDGER,
        "attempt=max(self._attempts.get(row.key, ()), default=0) + 1,",
        "attempt=1,",
        "test_batch.py::test_unconfirmed_rows_are_submitted_again_on_request",
    ),
    Mutant(
        "a released attempt counts as one that was made, and its row is never submitted",
        LEDGER,
        "made = (n for n, entry in attempts.items() if entry.state is not AttemptState.RELEASED)",
        "made = iter(attempts)",
        "test_batch.py::test_a_submit_that_another_run_releases_is_made",
    ),
    Mutant(
        "the reservation is written after the submit, not before it",
        LEDGER,
        "                created = await self._create(entry)\n",
        "                created = True\n",
        "test_batch.py::test_the_intent_is_durable_before_the_submit",
    ),
    Mutant(
        "a submit without an answer counts as refused, and is sent again",
        SUBMITTING,
        "    raise UnconfirmedSubmit(\n",
        "    raise error\n    raise UnconfirmedSubmit(\n",
        "test_submitting.py::test_what_is_not_known_is_doubted_and_not_repeated",
    ),
    Mutant(
        "a submit is sent again after an answer that was lost",
        SUBMITTING,
        "elif isinstance(error, NetworkError) and not error.sent:",
        "elif isinstance(error, NetworkError):",
        "test_submitting.py::test_what_is_not_known_is_doubted_and_not_repeated",
    ),
    Mutant(
        "a submit goes over a connection that the server is closing",
        SUBMITTING,
        "fresh=True,",
        "fresh=False,",
        "../api/test_failures_of_one_task.py::test_submits_go_over_fresh_connections",
    ),
    Mutant(
        "a submit refused for good is in doubt for ever",
        SUBMITTING,
        "(Unauthorized, Forbidden, OutOfCredits, BadRequest)",
        "(Unauthorized, Forbidden, OutOfCredits)",
        "test_submitting.py::test_a_refusal_is_raised_at_once",
    ),
    Mutant(
        "maintenance leaves rows in doubt",
        SUBMITTING,
        "if is_maintenance or isinstance",
        "if isinstance",
        "test_submitting.py::test_a_refusal_is_raised_at_once",
    ),
    Mutant(
        "submitting goes on although nothing is answered",
        SUBMITTER,
        "if self._unconfirmed_in_a_row >= MAX_UNCONFIRMED_IN_A_ROW:",
        "if False:",
        "test_batch.py::test_submits_that_are_never_answered_end_the_submitting",
    ),
    Mutant(
        "submitting goes on although everything is refused with 403",
        SUBMITTER,
        "if self._forbidden_in_a_row >= MAX_FORBIDDEN_IN_A_ROW:",
        "if False:",
        "test_overlapping_runs.py::TestRefusals::test_403_after_403",
    ),
    Mutant(
        "after a submit without an answer the next is sent into the outage",
        SUBMITTER,
        "                await self._wait_until_up()\n",
        "",
        "test_batch.py::test_an_outage_leaves_few_rows_unconfirmed",
    ),
    Mutant(
        "submitting goes on without credits",
        SUBMITTER,
        'self._no_more = OutOfCredits(f"{error.message} This row was not submitted.")\n'
        "            error = self._no_more",
        "pass",
        "test_batch.py::test_credits_that_run_out_end_the_submitting_only",
    ),
    Mutant(
        "submitting goes on with a key that is refused",
        SUBMITTER,
        "            error.is_fatal = True\n            self._no_more = error\n",
        "            pass\n",
        "test_batch.py::test_a_refused_key_ends_the_run",
    ),
    Mutant(
        "cancelling leaves a submit under way in doubt",
        SUBMITTER,
        "return await finish_despite_cancellation(\n"
        "                        self._submit(row, due, submit), LAST_SUBMIT_SECONDS\n"
        "                    )",
        "return await self._submit(row, due, submit)",
        "test_batch.py::test_a_cancelled_run_notes_the_submits_under_way",
    ),
    Mutant(
        "a task is not noted, so that a later run takes the row for unconfirmed",
        SUBMITTER,
        "return await self.ledger.submitted(entry, task_id)\n        except",
        "return entry\n        except",
        "test_batch.py::test_rows_become_images",
    ),
    Mutant(
        "a release that failed is silent",
        SUBMITTER,
        "            await self.ledger.release(entry)\n",
        "            pass\n",
        "test_batch.py::test_credits_that_run_out_end_the_submitting_only",
    ),
    Mutant(
        "the living are waited for as if they were dead",
        SUBMITTER,
        "if liveness in (Liveness.DEAD, Liveness.ENDED):",
        "if True:",
        "test_ledger.py::test_the_answer_of_the_living_is_waited_for",
    ),
    Mutant(
        "the dead are waited for as if they were living",
        SUBMITTER,
        "if liveness in (Liveness.DEAD, Liveness.ENDED):",
        "if False:",
        "test_ledger.py::test_reservations_of_the_dead_are_not_waited_for",
    ),
    Mutant(
        "what a run wrote just before it died is not read",
        SUBMITTER,
        "            with suppress(StorageError):  # its last word may have come since we read\n"
        "                await self.ledger.read_again(entry)\n",
        "",
        "test_ledger.py::test_the_last_word_of_a_run_is_read",
    ),
    Mutant(
        "what a living run lands is fetched as well",
        CLAIMS,
        "if owner and owner != own and await self._is_alive(owner):",
        "if False:",
        "test_ledger.py::test_the_claim_of_the_dead_is_taken_over_and_that_of_the_living_is_not",
    ),
    Mutant(
        "what a dead run has claimed is landed by nobody",
        CLAIMS,
        "in (Liveness.AT_WORK, Liveness.UNKNOWN)",
        "in Liveness",
        "test_ledger.py::test_the_claim_of_the_dead_is_taken_over_and_that_of_the_living_is_not",
    ),
    Mutant(
        "a row whose receipt is there is not recognised, and is submitted again",
        TAKEN_NAMES,
        "if receipt and row.request and receipt.row_key == row.key:",
        "if False:",
        "test_batch.py::test_a_receipt_that_names_the_row_is_adopted",
    ),
    Mutant(
        "another row's receipt is adopted",
        TAKEN_NAMES,
        "if receipt and row.request and receipt.row_key == row.key:",
        "if receipt and row.request:",
        "test_batch.py::test_a_taken_name_is_told_before_anything_is_spent",
    ),
    Mutant(
        "a refused row is submitted with its alternative prompt, although nobody asked for it",
        POLICIES,
        "if instead and is_refused and is_new and self._takes_alternatives:",
        "if instead and is_refused and is_new:",
        "test_policies.py::test_by_default_a_refused_row_fails",
    ),
    Mutant(
        "an alternative prompt that was refused is submitted again and again",
        POLICIES,
        "is_new = entry.alternative != row.alternative_digest",
        "is_new = True",
        "test_policies.py::test_an_alternative_that_is_refused_too",
    ),
    Mutant(
        "an alternative prompt follows what may still be a success",
        POLICIES,
        "is_refused = entry.state is AttemptState.FAILED and entry",
        "is_refused = entry",
        "test_policies.py::test_what_is_submitted_next",
    ),
    Mutant(
        "the attempt with the alternative prompt is not told from the row's own",
        SUBMITTER,
        "alternative = row.alternative_digest if is_alternative else None",
        "alternative = None",
        "test_policies.py::test_an_alternative_that_is_refused_too",
    ),
    Mutant(
        "what this run has made it retries itself",
        SUBMITTER,
        "retrying = row.key not in self.submitted and row.key not in self._ended",
        "retrying = True",
        "test_policies.py::test_an_alternative_that_is_refused_too",
    ),
    Mutant(
        "a row that failed in this run is submitted again by it",
        SUBMITTER,
        "if entry.alternative is not None or due is None or not due.is_alternative:",
        "if due is None:",
        "test_policies.py::test_a_changed_row_whose_old_task_fails_waits_for_the_next_run",
    ),
    Mutant(
        "rows beyond max_credits are submitted",
        SUBMITTER,
        "            self.limit.require(row)\n",
        "            pass\n",
        "test_credit_limit.py::TestBatches::test_rows_beyond_it_are_held_back",
    ),
    Mutant(
        "the row that passes max_credits is submitted as well",
        CREDIT_LIMIT,
        "            if spent > limit:\n                return list(chosen.values())\n"
        "            chosen[needed.number] = needed\n",
        "            chosen[needed.number] = needed\n            if spent > limit:\n"
        "                return list(chosen.values())\n",
        "test_credit_limit.py::TestBatches::test_rows_beyond_it_are_held_back",
    ),
    Mutant(
        "alternative prompts pass max_credits",
        SUBMITTER,
        "return self.limit is None or self.limit.take_more(row)",
        "return True",
        "test_credit_limit.py::TestBatches::test_alternative_prompts_count",
    ),
    Mutant(
        "a part of a batch may spend all that the whole batch may",
        CREDIT_LIMIT,
        "self.chosen = rows_within(due, share)",
        "self.chosen = rows_within(due, limit)",
        "test_credit_limit.py::TestBatches::test_below_the_first_row",
    ),
    Mutant(
        "a dry run writes to the ledger what receipts tell",
        LEDGER,
        "if self._is_written:",
        "if True:",
        "test_planning.py::test_a_receipt_that_names_its_row_is_known",
    ),
    Mutant(
        "an endpoint that is not known is submitted to without a price",
        REQUESTS,
        "    if expected is None:\n",
        "    if False:\n",
        "test_newer_endpoints.py::test_without_credits_nothing_is_spent",
    ),
    Mutant(
        "a field that a known endpoint does not have is left out in silence",
        ROWS,
        'fields.tell(name, f"{endpoint} has no {ALIASES[name]}; {others} {verb} it{place}")',
        "place += others + verb",
        "test_newer_endpoints.py::test_a_known_endpoint_takes_no_fields_of_others",
    ),
    Mutant(
        "requests that differ in the service's own fields only are taken for one",
        REQUESTS,
        "        return self.fields | named\n",
        "        return named\n",
        "test_newer_endpoints.py::test_its_own_fields_are_a_part_of_what_a_row_is",
    ),
    Mutant(
        "what the user expects a newer endpoint to cost does not count for max_credits",
        REQUESTS,
        "        return self.credits\n",
        "        return 0\n",
        "test_newer_endpoints.py::test_its_credits_count_for_the_limit",
    ),
]
