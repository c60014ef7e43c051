"""An HTML page as a browser reads it: tags, attributes and texts."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, attribute: str) -> list[str | None]:
        """The values of an attribute of all tags of a name, in their order."""
        return [attributes.get(attribute) for name, attributes in self.tags if name == tag]
