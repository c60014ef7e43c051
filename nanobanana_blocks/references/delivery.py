"""How the service gets to see the reference images of a run, and what is checked before.

Four ways, by what a text is and what the user has set up: a URL is sent as it is; a file is copied
to the public place, where there is one, or uploaded to the provider, where the credentials say so;
else its storage signs a URL for it. Signed URLs are
secrets: they are made for one submit, sent, and kept nowhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from nanobanana_blocks.api.requests import GenerationRequest, is_url
from nanobanana_blocks.api.uploads import FileUploads
from nanobanana_blocks.concurrency import map_concurrently
from nanobanana_blocks.errors import (
    DestinationError,
    NanoBananaError,
    UnusableReference,
)
from nanobanana_blocks.images import EgressRules, UrlProbe
from nanobanana_blocks.references.copies import Copies, PublicPlace
from nanobanana_blocks.references.inspection import (
    EXTENSIONS,
    Picture,
    require_size,
)
from nanobanana_blocks.references.known import Known, recall, remember
from nanobanana_blocks.references.sources import ROW, SourceFile, SourceFinder, is_file
from nanobanana_blocks.references.storages import Storages, open_storages
from nanobanana_blocks.references.uploads import Uploads
from nanobanana_blocks.references.urls import UrlChecks
from nanobanana_blocks.storage.destination import StorageLocation
from nanobanana_blocks.storage.locations import Location

EXAMINED_AT_ONCE = 48
SPARE_SECONDS = 3600.0
"""How much longer than the wait for its task a signed URL lives: the service may queue it."""

MAX_SIGNED_SECONDS = 7 * 86_400
"""The longest that S3 and Google sign for."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examined:
    """What was found of a file.

    Attributes:
        file: Where it is; None where the text names no file.
        picture: What it is, or was when it was last seen; None where that is not known.
        problem: Why it cannot be sent; None where it can.
    """

    file: SourceFile | None
    picture: Picture | None
    problem: NanoBananaError | None = None


class References:
    """The reference images of one run; made by `open_references`.

    Attributes:
        copies: The public copies, or the uploads, where there is a place for them.
        examined: What was found of each file, by the text that names it.
    """

    def __init__(
        self,
        finder: SourceFinder,
        images: StorageLocation | None,
        storages: Storages,
        urls: UrlChecks,
        *,
        timeout: float,
        copies: Copies | Uploads | None = None,
    ) -> None:
        """For `open_references`, which describes these."""
        self.copies = copies
        self.examined: dict[str, Examined] = {}
        self._finder = finder
        self._images = images
        self._storages = storages
        self._urls = urls
        self._lifetime = int(timeout + SPARE_SECONDS)
        self._known: Mapping[str, Known] | None = None
        self._found: dict[str, Known] = {}
        self._prepared: dict[str, asyncio.Task[None]] = {}

    async def examine(self, texts: Iterable[str]) -> None:
        """Find out what the files are that texts name; `examined` tells of each.

        Each is read once, unless its storage says that it is what is remembered of it.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self.examined and is_file(text)]
        if new and self._known is None and self._images:
            self._known = await recall(self._images)
        found = await map_concurrently(self._examine, new, at_once=EXAMINED_AT_ONCE)
        self.examined.update(zip(new, found, strict=True))

    async def _examine(self, text: str) -> Examined:
        try:
            file = await self._finder.find(text)
        except NanoBananaError as error:
            return Examined(None, None, error)
        earlier = (self._known or {}).get(file.shown)
        try:
            known = await self._storages.examine(file, earlier)
        except NanoBananaError as error:
            return Examined(file, earlier.picture if earlier else None, error)
        self._found[file.shown] = known
        return Examined(file, known.picture)

    async def remember(self) -> None:
        """Write what was found, so that the next run reads only what has changed."""
        if self._found and self._images:
            await remember(self._images, self._found)

    def add_landed(self, text: str, name: str, picture: Picture) -> None:
        """Take note of an image that has landed among the images of this run.

        Args:
            text: What it is called where it is worked from.
            name: Its file's name.
            picture: What it is.

        Raises:
            UnusableReference: It is of a kind or size that the service does not take.
        """
        if picture.media_type not in EXTENSIONS:
            kind = picture.media_type.partition("/")[2].upper()
            raise UnusableReference(f"{text} is a {kind}, and the service takes JPEG, PNG and WebP")
        require_size(picture.size)
        self.examined[text] = Examined(self._among_images(name), picture)

    def _among_images(self, name: str) -> SourceFile:
        if self._images is None:
            raise AssertionError(name)
        return SourceFile.at(Location.child(self._images.url, name), self._images.options)

    async def why_not_landed_ones(self) -> str | None:
        """Why images that will land in this run could not be made reachable, if they could not."""
        if self.copies:
            return None
        try:
            url = await self._signed(self._among_images("image.png"))
        except NanoBananaError as error:
            return f"will land where it cannot be fetched: {error.message}"
        if where := self._urls.where_beyond_reach(url):
            return f"will land on {where} that the service cannot fetch from. {_COPY}"
        return None

    def identity(self, texts: Iterable[str]) -> str | None:
        """What tells the content of the files that texts name; None where one is not known."""
        contents = []
        for text in filter(is_file, texts):
            examined = self.examined[text]
            if examined.picture is None:
                return None
            contents.append(f"{text} {examined.picture.sha256}")
        return "\n".join(contents)

    def digests(self, texts: Iterable[str]) -> dict[str, str]:
        """The SHA-256 of the files that texts name, as far as they are known."""
        found = {text: self.examined[text] for text in texts if text in self.examined}
        return {text: each.picture.sha256 for text, each in found.items() if each.picture}

    async def problems(self, texts: Iterable[str], *, copying: bool = True) -> dict[str, str]:
        """Why the service would not get what texts name, found out before anything is spent.

        URLs are asked for as a stranger would. Of the files on each storage, one is made reachable
        and asked for: what is wrong with keys, rights and addresses is wrong with all. Where files
        are copied, that is left out unless `copying`.
        """
        unique = list(dict.fromkeys(texts))
        problems = {text: self._problem(text) for text in unique}
        urls = [text for text in unique if is_url(text) and not problems[text]]
        found = await map_concurrently(self._urls.problem, urls)
        problems.update(zip(urls, found, strict=True))
        by_storage: dict[str, list[str]] = {}
        for text in unique:
            if is_file(text) and not problems[text] and (copying or not self.copies):
                by_storage.setdefault(self._storage_of(text), []).append(text)
        for alike in by_storage.values():
            try:
                await self.prepare_one(alike[0])
            except NanoBananaError as error:
                for text in alike:
                    problems[text] = error.message
        return {text: problem for text, problem in problems.items() if problem}

    def _problem(self, text: str) -> str | None:
        error = self.examined[text].problem if is_file(text) else None
        return error.message if error else None

    def _storage_of(self, text: str) -> str:
        file = self.examined[text].file
        return "" if self.copies or file is None else file.root.url

    async def prepare(self, request: GenerationRequest) -> None:
        """Make the files of a request reachable, and make sure of it, once for each file.

        Raises:
            UnusableReference: The service would not get one of them.
            StorageError: A storage failed; trying again may help.
        """
        for text in request.image_urls or ():
            if not is_url(text):
                await self.prepare_one(text)

    async def prepare_one(self, text: str) -> None:
        """Make one file reachable; see `prepare`."""
        preparing = self._prepared.get(text)
        if preparing is None:
            preparing = self._prepared[text] = asyncio.create_task(self._prepare(text))
        try:
            await asyncio.shield(preparing)
        except NanoBananaError as error:
            if error.retryable:
                self._prepared.pop(text, None)
            raise

    async def _prepare(self, text: str) -> None:
        file, picture = self._sendable(text)
        try:
            if self.copies:
                url = await self._copied(self.copies, file, picture)
                made, next_step = self.copies.made, self.copies.next_step
            else:
                url = await self._signed(file)
                made, next_step = "its signed URL", _COPY
        except DestinationError as error:
            raise UnusableReference(f"{file.shown} cannot be sent: {error.message}") from None
        await self._urls.require(url, file.shown, made, next_step)

    async def _copied(self, copies: Copies | Uploads, file: SourceFile, picture: Picture) -> str:
        async with self._storages.holding(picture.size):
            return await copies.ensure(picture, lambda: self._storages.read(file, picture))

    def _sendable(self, text: str) -> tuple[SourceFile, Picture]:
        examined = self.examined[text]
        if examined.problem:
            raise examined.problem
        if examined.file is None or examined.picture is None:
            raise AssertionError(text)
        return examined.file, examined.picture

    async def _signed(self, file: SourceFile) -> str:
        if file.root.local is not None:
            raise UnusableReference(
                f"{file.shown} is on this machine, where the service cannot fetch it. {_COPY}"
            )
        if self._lifetime > MAX_SIGNED_SECONDS:
            raise UnusableReference(
                f"{file.shown} cannot be sent: a signed URL lives a week at most, and this run may "
                f"wait longer. Lower timeout. Or give {_PLACE}"
            )
        try:
            return await self._storages.sign(file, self._lifetime)
        except DestinationError as error:
            raise UnusableReference(
                f"{file.shown} cannot be sent: {error.message} Give credentials that can, such as "
                f"an account's or a service account's key. Or give {_PLACE}"
            ) from None

    async def ready(self, request: GenerationRequest) -> GenerationRequest:
        """Check a request of its own, make its files reachable, and return it as it is sent.

        Raises:
            UnusableReference: The service would not get one of its images; each is told.
            StorageError: A storage failed; trying again may help.
        """
        texts = request.image_urls or ()
        await self.examine(texts)
        wrong = await self.problems(texts)
        told = [f"image {n} {wrong[text]}" for n, text in enumerate(texts, 1) if text in wrong]
        if told:
            said = "; ".join(told).removesuffix(".")
            raise UnusableReference(f"{said}. Nothing was sent.")
        await self.prepare(request)
        return await self.sent(request)

    async def sent(self, request: GenerationRequest) -> GenerationRequest:
        """The request as it is sent: with URLs that the service can fetch, fresh where signed.

        It holds secrets: it is for one submit, and never to be kept, logged or shown.

        Raises:
            UnusableReference: A file cannot be made reachable.
        """
        texts = request.image_urls or ()
        if all(map(is_url, texts)):
            return request
        return request.model_copy(
            update={"image_urls": tuple([await self._url_of(text) for text in texts])}
        )

    async def _url_of(self, text: str) -> str:
        if is_url(text):
            return text
        file, picture = self._sendable(text)
        if self.copies:
            return await self._copied(self.copies, file, picture)
        return await self._signed(file)

    def ways(self, texts: Iterable[str]) -> dict[str, int]:
        """How many images go by `url`, `signed_url`, `public_copy`, `upload` or `row`."""
        filed = self.copies.way if self.copies else "signed_url"
        return dict(
            Counter(
                "url" if is_url(text) else "row" if text.startswith(ROW) else filed
                for text in dict.fromkeys(texts)
            )
        )

    def describe(self, texts: Iterable[str]) -> str:
        """How the service gets the images that texts name, in words for a plan."""
        unique = list(dict.fromkeys(texts))
        urls = sum(map(is_url, unique))
        made = sum(text.startswith(ROW) for text in unique)
        files = [text for text in unique if is_file(text) and text in self.examined]
        parts = []
        if urls:
            parts.append(f"{urls:,} by {'its own URL' if urls == 1 else 'their own URLs'}")
        if files and self.copies:
            how = "uploads to" if self.copies.way == "upload" else "public copies in"
            parts.append(f"{len(files):,} by {how} {self.copies.where}")
        elif files:
            parts.append(f"{len(files):,} by signed URLs that live {self._lifetime:,} s")
        if made:
            parts.append(f"{made:,} that other rows make")
        return ", ".join(parts)


_PLACE = "`references`: a place with a public URL, where a copy is put."
_COPY = f"Give {_PLACE}"


@asynccontextmanager
async def open_references(
    finder: SourceFinder,
    images: StorageLocation | None,
    *,
    base_url: str,
    timeout: float,
    public: PublicPlace | None = None,
    uploads: FileUploads | None = None,
) -> AsyncIterator[References]:
    """Give what makes the reference images of a run reachable, and close it at the end.

    Args:
        finder: Finds the files that texts name.
        images: Where the images go; what is known of reference images is remembered beside them.
            Without it, nothing is.
        base_url: The API, which decides what it can fetch, and where URLs may lead.
        timeout: Seconds that each generation task is waited for; signed URLs outlive it.
        public: Where copies go, instead of signed URLs.
        uploads: Where files are uploaded to instead, if there is no place for copies.

    Raises:
        UnusableReference: A task may be waited for longer than uploads are kept.
    """
    async with (
        AsyncExitStack() as stack,
        open_storages() as storages,
        UrlProbe(EgressRules.for_api(base_url)) as probe,
    ):
        copies: Copies | Uploads | None = None
        if public:
            copies = await stack.enter_async_context(Copies(public))
        elif uploads:
            lifetime = timeout + SPARE_SECONDS
            copies = await stack.enter_async_context(Uploads(uploads, lifetime=lifetime))
        urls = UrlChecks(probe, base_url)
        yield References(finder, images, storages, urls, timeout=timeout, copies=copies)
