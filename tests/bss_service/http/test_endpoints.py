"""Routes that can't be made."""

import pytest

from bss_service.http import routes as api


def test_a_route_whose_body_would_be_read_without_bounds_cannot_be_made() -> None:
    async def endpoint(numbers: dict[str, int]) -> None: ...

    with pytest.raises(TypeError, match="route /v1/numbers must take its body as a message, or as bytes"):
        api.router.post("/numbers", dependencies=api.OPEN)(endpoint)
