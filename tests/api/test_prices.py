"""What requests cost: one table, its figures and their sources, and figures of the user's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanobanana_blocks import Generate2Request, GenerateProRequest, GenerateRequest
from nanobanana_blocks.api.prices import FIGURES, PRICES, Certainty, total
from nanobanana_blocks.api.requests import GenerationRequest
from nanobanana_blocks.errors import InvalidInput


@pytest.mark.parametrize(
    ("request_", "cost"),
    [
        (GenerateRequest(prompt="a"), 4),
        (GenerateRequest(prompt="a", num_images=3), 12),
        (Generate2Request(prompt="a"), 8),
        (Generate2Request(prompt="a", resolution="2K"), 12),
        (Generate2Request(prompt="a", resolution="4K"), 18),
        (GenerateProRequest(prompt="a"), 18),
        (GenerateProRequest(prompt="a", resolution="2K"), 24),
        (GenerateProRequest(prompt="a", resolution="4K"), 36),
    ],
)
def test_what_a_request_costs(request_: GenerationRequest, cost: int) -> None:
    """Rule: each image counts; of two figures that were seen, the higher one does."""
    assert request_.estimated_credits == cost
    assert isinstance(request_.estimated_credits, int)


def test_each_figure_has_its_source() -> None:
    """Rule: every figure says where it is from and how sure it is; names are unique."""
    assert all(price.source and price.certainty in Certainty for price in FIGURES)
    assert len({price.name for price in FIGURES}) == len(FIGURES)


def test_the_page_has_the_table() -> None:
    """Rule: what people read of prices is what estimates are made of."""
    page = (Path(__file__).parents[2] / "docs/batches.md").read_text()
    table = re.findall(
        r"^\| `(generate[^`]*)` \| ([0-9]+) \| (observed|assumed)", page, re.MULTILINE
    )
    expected = [(price.name, str(price.credits), price.certainty.value) for price in FIGURES]
    assert table == expected


def test_figures_of_the_users() -> None:
    """Rule: an endpoint stands for all its resolutions, one with its resolution wins."""
    own = PRICES.overridden({"generate-pro": 18, "generate-pro/4K": 24.5, "generate": 0})
    assert GenerateProRequest(prompt="a").cost(own) == 18
    assert GenerateProRequest(prompt="a", resolution="2K").cost(own) == 18
    assert GenerateProRequest(prompt="a", resolution="4K").cost(own) == 24.5
    assert GenerateRequest(prompt="a", num_images=4).cost(own) == 0
    assert Generate2Request(prompt="a").cost(own) == 8
    assert {p.certainty for p in own.figures if p.endpoint == "generate-pro"} == {Certainty.YOURS}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"generate-por/2K": 1}, r"'generate-por/2K' is none of .*did you mean generate-pro/2K\?"),
        ({"generate/2K": 1}, "'generate/2K' is none of"),
        ({"generate": -1}, "generate must cost 0 credits or more, not -1"),
        ({"generate": float("nan")}, "generate must cost 0 credits or more, not nan"),
    ],
)
def test_what_is_no_price(own: dict[str, float], message: str) -> None:
    """Rule: a name that is none, or a figure that is no price, is one error that says so."""
    with pytest.raises(InvalidInput, match=message):
        PRICES.overridden(own)


def test_sums_have_no_dust() -> None:
    """Rule: tenths add up as on paper, and whole sums are whole numbers."""
    assert total([0.1] * 3) == 0.3
    assert total([0.5, 0.5]) == 1
    assert isinstance(total([0.5, 0.5]), int)
