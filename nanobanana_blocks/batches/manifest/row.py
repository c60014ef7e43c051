"""One row of a manifest without a problem: what it asks for, and its price; it does no I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from nanobanana_blocks.api.prices import Credits, PriceTable
from nanobanana_blocks.api.requests import GenerationRequest

_DIGEST_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a request to be sent, or a generation task to be landed.

    Attributes:
        number: JSONL: the number of its line, from 1. CSV: the number that a spreadsheet shows,
            where the header is row 1.
        key: What recognises the row between runs: the `key` it gives, else its `name`, else its
            digest, with ``-2``, ``-3`` … for rows that repeat another.
        digest: 32 hexadecimal digits of the SHA-256 of what it asks for: the endpoint and the
            content of the request, or the task id.
        name: What its files shall be called, without an extension; None where it does not say.
        task_id: The generation task; None where there is a request.
        request: What to ask for; None where there is a task id.
        builds_on: The numbers of the rows whose images it works from.
        prompt_on_content_policy: The prompt of its `alternative`; None where it gives none.
        price: About what it costs, in credits; None where this version's price table tells.
    """

    number: int
    key: str
    digest: str
    name: str | None
    task_id: str | None
    request: GenerationRequest | None
    builds_on: tuple[int, ...] = ()
    prompt_on_content_policy: str | None = None
    price: Credits | None = None

    @property
    def credits(self) -> Credits:
        """About what its submit costs; 0 where it names a generation task."""
        if self.request is None:
            return 0
        return self.request.estimated_credits if self.price is None else self.price

    def priced(self, prices: PriceTable) -> Row:
        """The row at the prices of a table."""
        return replace(self, price=self.request.cost(prices)) if self.request else self

    @property
    def images(self) -> tuple[str, ...]:
        """The images that it works from, as the manifest names them."""
        return (self.request.image_urls or ()) if self.request else ()

    @property
    def alternative(self) -> GenerationRequest | None:
        """What to ask for once where the content of `request` is refused; None: nothing."""
        if self.request is None or self.prompt_on_content_policy is None:
            return None
        return self.request.model_copy(update={"prompt": self.prompt_on_content_policy})

    @property
    def alternative_digest(self) -> str | None:
        """The digest of what `alternative` asks for."""
        prompt = self.prompt_on_content_policy
        return None if prompt is None else shortened(f"{self.digest}\n{prompt}")

    def including(self, contents: str) -> Row:
        """The row recognised by the contents of its images as well, which make another row of it.

        A key that was made of its digest is made of the new one.
        """
        digest = shortened(f"{self.digest}\n{contents}")
        is_made = self.key.startswith(self.digest)
        key = digest + self.key.removeprefix(self.digest) if is_made else self.key
        return replace(self, digest=digest, key=key)


def shortened(content: str) -> str:
    """The digest of a content, as rows are told apart by it."""
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGEST_DIGITS]
