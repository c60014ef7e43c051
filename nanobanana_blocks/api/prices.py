"""What generation tasks cost: one table of figures, each with its source; it asks nobody.

Nothing here is documented by the service. One credit is about $0.005, as users have seen. The real
cost is what the account's balance tells; where it differs, give your own figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, TypeAlias

from pydantic import Field

from nanobanana_blocks.errors import InvalidInput

Credits: TypeAlias = int | float

OwnPrices: TypeAlias = dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
"""Figures of the user's, as ``{"generate": 4, "generate-pro/2K": 18}``."""


class Certainty(StrEnum):
    """How sure a figure is."""

    OBSERVED = "observed"
    ASSUMED = "assumed"
    YOURS = "yours"


@dataclass(frozen=True, slots=True)
class Price:
    """What one image costs, in credits.

    Attributes:
        endpoint: The submit endpoint, as the last part of its path.
        resolution: 1K, 2K or 4K; None where the endpoint has no resolutions.
        credits: For each image asked for.
        certainty: How sure it is.
        source: Where it comes from.
    """

    endpoint: str
    resolution: str | None
    credits: Credits
    certainty: Certainty
    source: str

    @property
    def name(self) -> str:
        """What it is called where one is overridden: ``generate-pro/2K``."""
        return f"{self.endpoint}/{self.resolution}" if self.resolution else self.endpoint


_FOR_EACH = "users of the service; that each image counts is documented for sister products only"
_SEEN = "users of the service"
_ABOVE = "18 and 24 were seen at 2K"

FIGURES = (
    Price("generate", None, 4, Certainty.OBSERVED, _FOR_EACH),
    Price("generate-2", "1K", 8, Certainty.OBSERVED, _SEEN),
    Price("generate-2", "2K", 12, Certainty.OBSERVED, _SEEN),
    Price("generate-2", "4K", 18, Certainty.OBSERVED, _SEEN),
    Price("generate-pro", "1K", 18, Certainty.ASSUMED, f"{_ABOVE}: the lower of them"),
    Price("generate-pro", "2K", 24, Certainty.OBSERVED, f"{_ABOVE}: the higher of them"),
    Price("generate-pro", "4K", 36, Certainty.ASSUMED, "2K, as generate-2 rises from 2K to 4K"),
)


class PriceTable:
    """The prices of all endpoints.

    Args:
        figures: One for each endpoint and resolution.
    """

    def __init__(self, figures: Iterable[Price]) -> None:
        self.figures = tuple(figures)
        self._by_name = {price.name: price for price in self.figures}

    def credits(self, endpoint: str, resolution: str | None = None, images: int = 1) -> int | float:
        """About what a generation task costs.

        Args:
            endpoint: The submit endpoint.
            resolution: 1K, 2K or 4K; None where the endpoint has none.
            images: How many are asked for.
        """
        price = self._by_name[f"{endpoint}/{resolution}" if resolution else endpoint]
        return total([price.credits * images])

    def overridden(self, own: Mapping[str, float]) -> PriceTable:
        """The table with figures of the user's, by names like ``generate`` or ``generate-pro/2K``.

        An endpoint's name alone stands for all its resolutions; one with its resolution wins.

        Raises:
            InvalidInput: A name is none, or a figure is no price.
        """
        known = {price.endpoint for price in self.figures} | set(self._by_name)
        for name, figure in own.items():
            if name not in known:
                close = get_close_matches(name, known, n=1)
                meant = f"; did you mean {close[0]}?" if close else ""
                names = ", ".join(sorted(self._by_name))
                raise InvalidInput(f"prices: {name[:40]!r} is none of {names}{meant}")
            if not (math.isfinite(figure) and figure >= 0):
                raise InvalidInput(f"prices: {name} must cost 0 credits or more, not {figure}")
        return PriceTable(_overridden(price, own) for price in self.figures)


def _overridden(price: Price, own: Mapping[str, float]) -> Price:
    figure = own.get(price.name, own.get(price.endpoint))
    if figure is None:
        return price
    return Price(price.endpoint, price.resolution, total([figure]), Certainty.YOURS, "your prices")


def total(figures: Iterable[Credits]) -> int | float:
    """The sum of credits: whole where it is, and without the dust of floating point."""
    found = round(math.fsum(figures), 6)
    return int(found) if found == int(found) else found


PRICES = PriceTable(FIGURES)
"""The figures of this version."""
