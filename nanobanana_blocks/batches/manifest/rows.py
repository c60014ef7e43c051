"""The rows of a manifest, each checked by itself and against the others; it does no I/O.

How a file is split into rows, and what its problems look like, is told elsewhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from nanobanana_blocks.api.details import check_task_id
from nanobanana_blocks.api.requests import GenerationRequest, GenericRequest, request_type
from nanobanana_blocks.batches.manifest.cells import from_cell
from nanobanana_blocks.batches.manifest.chains import linked
from nanobanana_blocks.batches.manifest.checks import name_problem, repeated_header, unusable
from nanobanana_blocks.batches.manifest.fields import (
    ALIASES,
    ALTERNATIVE_PROMPT,
    NAMES,
    OPTIONS,
    OTHER_OPTIONS,
    ROW_FIELDS,
    RowDefaults,
    having,
    unknown,
)
from nanobanana_blocks.batches.manifest.formats import Record
from nanobanana_blocks.batches.manifest.problems import Problem, reworded, value_shown
from nanobanana_blocks.batches.manifest.row import Row, shortened
from nanobanana_blocks.errors import InvalidInput
from nanobanana_blocks.storage.names import safe_name

MAX_KEY_LENGTH = 200
"""Characters that a row's key has at most."""

_MAX_UNKNOWN = 10
_NOT_QUOTED = frozenset({"prompt", "image_urls", "fields"})


@dataclass(slots=True)
class _Fields:
    """What one row gives, by Python's name of the field, and the file's spelling of each.

    Of a field that is `refused`, nothing else is told.
    """

    row: int
    problems: list[Problem]
    values: dict[str, Any] = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def tell(self, name: str, message: str) -> None:
        if name in self.refused:
            return
        spelling = self.spellings.get(name) or ALIASES[name]
        self.problems.append(Problem(self.row, spelling, message))


class RowChecker:
    """Checks rows one after the other; `problems` tells what was found wrong so far."""

    def __init__(self, defaults: RowDefaults) -> None:
        self.problems: list[Problem] = []
        self._rows: list[Row] = []
        self._endpoint = defaults.endpoint
        given = defaults.model_dump(exclude={"endpoint"}, exclude_none=True)
        self._defaults: dict[str, Any] = given
        self._defaults_of: dict[str, dict[str, Any]] = {
            endpoint: {name: value for name, value in given.items() if name in options}
            for endpoint, options in OPTIONS.items()
        }
        self._defaults_of_others: dict[str, Any] = {
            k: v for k, v in given.items() if k in OTHER_OPTIONS
        }
        self._endpoints: set[str] = set()
        self._all_understood = True
        self._told_defaults: set[tuple[str, str]] = set()
        self._unknown_columns: set[str] = set()
        self._files: dict[str, int] = {}
        self._keys: dict[str, tuple[int, str]] = {}
        self._task_ids: dict[str, int] = {}
        self._repeats: Counter[str] = Counter()
        self._named: set[str] = set()

    def take(self, found: Record | Problem) -> None:
        if isinstance(found, Problem):
            self.problems.append(found)
            self._all_understood = False
            return
        if problem := repeated_header(found):
            self.problems.append(Problem(found.row, None, problem))
            return
        problems_before = len(self.problems)
        fields = self._sorted_out(found)
        name, key = self._name(fields), self._key(fields)
        self._named.update(filter(None, (name, key)))
        if "task_id" in fields.values:
            task_id, request = self._task_id(fields), None
        else:
            task_id, request = None, self._request(fields)
        self._claim_files(fields, name, task_id, request)
        if len(self.problems) == problems_before:
            digest = _digest(request, task_id)
            row = Row(
                number=found.row,
                key=key or name or self._numbered(digest),
                digest=digest,
                name=name,
                task_id=task_id,
                request=request,
                prompt_on_content_policy=fields.values.get(ALTERNATIVE_PROMPT),
            )
            self._rows.append(row)
            self._claim_key(fields, row.key)
        elif known_key := key or name:
            self._claim_key(fields, known_key)

    def finish(self) -> list[Row]:
        """The rows, which are all of the file's unless there are problems."""
        if not self._rows and not self.problems:
            self.problems.append(Problem(None, None, "it has no rows"))
        elif self._all_understood and self._endpoints:
            useful = set().union(*map(self._defaults_for, self._endpoints))
            for name in self._defaults.keys() - useful:
                reason = f"only {having(name)} can have it"
                place = f"defaults.{ALIASES[name]}"
                self.problems.append(Problem(None, place, f"applies to no row: {reason}"))
        rows, problems = linked(self._rows, self._named)
        self.problems += problems
        return list(rows)

    def _sorted_out(self, record: Record) -> _Fields:
        fields = _Fields(record.row, self.problems)
        unknown_names = []
        for spelling, value in record.fields.items():
            name = NAMES.get(spelling)
            if name is None:
                unknown_names.append(spelling)
            elif value is None:
                continue
            elif name in fields.values:
                self.problems.append(
                    Problem(record.row, spelling, f"is given as {fields.spellings[name]} too")
                )
            else:
                fields.spellings[name] = spelling
                fields.values[name] = value if record.header is None else from_cell(name, value)
                if problem := unusable(record, name, value, fields.values[name]):
                    fields.tell(name, problem)
                    fields.refused.add(name)
        if unknown_names:
            self._tell_unknown(record, unknown_names)
        return fields

    def _tell_unknown(self, record: Record, names: list[str]) -> None:
        """Tell a row's unknown fields, but an unknown column only once."""
        if record.header is not None:
            names = [name for name in names if name not in self._unknown_columns]
            self._unknown_columns.update(names)
        row = record.header or record.row
        for name in names[:_MAX_UNKNOWN]:
            self.problems.append(Problem(row, name, unknown(name)))
        if len(names) > _MAX_UNKNOWN:
            more = len(names) - _MAX_UNKNOWN
            self.problems.append(Problem(row, None, f"has {more:,} more unknown fields"))

    def _name(self, fields: _Fields) -> str | None:
        name = fields.values.get("name")
        if name is None:
            return None
        problem = name_problem(name)
        if problem:
            fields.tell("name", problem)
            return None
        return str(name)

    def _key(self, fields: _Fields) -> str | None:
        key = fields.values.get("key")
        if key is None:
            return None
        if (
            isinstance(key, str)
            and key.strip()
            and key.isprintable()
            and len(key) <= MAX_KEY_LENGTH
        ):
            return key
        fields.tell("key", f"must be 1 to {MAX_KEY_LENGTH} printable characters")
        return None

    def _task_id(self, fields: _Fields) -> str | None:
        for name in fields.values:
            if name not in ("task_id", "name", "key"):
                fields.tell(name, "is not for a row with a task id, which has a name and a key")
        try:
            task_id = check_task_id(fields.values["task_id"])
        except InvalidInput as error:
            fields.tell("task_id", error.message)
            return None
        other = self._task_ids.setdefault(task_id, fields.row)
        if other != fields.row:
            fields.tell("task_id", f"is that of row {other} too")
        return task_id

    def _defaults_for(self, endpoint: str) -> Mapping[str, Any]:
        of_others: Mapping[str, Any] = self._defaults_of_others
        return self._defaults_of.get(endpoint, of_others)

    def _request(self, fields: _Fields) -> GenerationRequest | None:
        asked = {name: fields.values[name] for name in fields.values if name not in ROW_FIELDS}
        endpoint = fields.values.get("endpoint", self._endpoint)
        given = fields.values.get("credits", self._defaults_of_others.get("credits"))
        try:
            form = request_type(endpoint, given)
        except InvalidInput as error:
            fields.tell("endpoint", error.message)
            self._all_understood = False
            return None
        self._endpoints.add(endpoint)
        self._check_alternative(fields, form)
        options = OPTIONS.get(endpoint, OTHER_OPTIONS)
        for name in [name for name in asked if name not in options]:
            others = having(name)
            verb = "have" if " and " in others else "has"
            place = "" if endpoint in OPTIONS else ". Write it into fields"
            fields.tell(name, f"{endpoint} has no {ALIASES[name]}; {others} {verb} it{place}")
            del asked[name]
        added = {k: v for k, v in self._defaults_for(endpoint).items() if k not in asked}
        named = {"endpoint": endpoint} if form is GenericRequest else {}
        try:
            return form.model_validate(added | asked | named)
        except ValidationError as error:
            self._tell_invalid(error, fields, endpoint, added)
            return None

    def _check_alternative(self, fields: _Fields, form: type[GenerationRequest]) -> None:
        prompt = fields.values.get(ALTERNATIVE_PROMPT)
        if prompt is None:
            return
        try:
            more = {"endpoint": "other", "credits": 0} if form is GenericRequest else {}
            form.model_validate({"prompt": prompt} | more)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            fields.tell(ALTERNATIVE_PROMPT, reworded(detail, quote=False))
        if prompt == fields.values.get("prompt"):
            fields.tell(ALTERNATIVE_PROMPT, "is the prompt itself, which would be refused again")

    def _tell_invalid(
        self, error: ValidationError, fields: _Fields, endpoint: str, added: Mapping[str, Any]
    ) -> None:
        told = set()
        for detail in error.errors(include_url=False):
            name = NAMES[str(detail["loc"][0])]
            # A default that depends on another field is not to blame for it.
            if name in told or detail["type"] == "default_factory_not_called":
                continue
            told.add(name)
            message = reworded(detail, quote=name not in _NOT_QUOTED)
            if name not in added:
                if detail["type"] == "missing":
                    message = "is missing; a row has a prompt or a task id"
                fields.tell(name, message)
            elif (endpoint, name) not in self._told_defaults:
                self._told_defaults.add((endpoint, name))
                place = f"defaults.{ALIASES[name]}"
                self.problems.append(Problem(None, place, f"{message} ({endpoint})"))

    def _claim_files(
        self,
        fields: _Fields,
        name: str | None,
        task_id: str | None,
        request: GenerationRequest | None,
    ) -> None:
        """Have no two rows write files of the same name.

        How many images a generation task has made is not known yet, so it claims no numbered names.
        """
        stem = name or (task_id and safe_name(task_id))
        if not stem:
            return
        count = request.images_asked_for if request else 1
        numbered = [f"{stem}-{index + 1}" for index in range(count)] if count > 1 else []
        taken = None
        for claimed in (stem, *numbered):
            other = self._files.setdefault(claimed.lower(), fields.row)
            if other != fields.row and taken is None:
                taken = f"row {other} makes files called {claimed} too"
        if taken:
            fields.tell("name" if name else "task_id", taken)

    def _claim_key(self, fields: _Fields, key: str) -> None:
        """Have no two rows share a ledger entry, which some disks find whatever the case."""
        other, others_key = self._keys.setdefault(key.lower(), (fields.row, key))
        is_name = "key" not in fields.values and key == fields.values.get("name")
        told_already = is_name and self._files.get(key.lower()) == other
        if other != fields.row and not told_already:
            message = f"{value_shown(key)} is the key of row {other} too"
            if key != others_key:
                message += ", but for upper and lower case"
            fields.tell("name" if is_name else "key", message)

    def _numbered(self, digest: str) -> str:
        self._repeats[digest] += 1
        return digest if self._repeats[digest] == 1 else f"{digest}-{self._repeats[digest]}"


def _digest(request: GenerationRequest | None, task_id: str | None) -> str:
    return shortened(_canonical(request) if request else str(task_id))


def _canonical(request: GenerationRequest) -> str:
    endpoint, content = str(request.endpoint), request.content()
    # A newer endpoint may have a field of this name, which must not hide where it is submitted.
    told = [endpoint, content] if "endpoint" in content else {"endpoint": endpoint, **content}
    return json.dumps(told, sort_keys=True)
