import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.core.pacing import admitted_share
from tests.conftest import Golden

initial_shares = st.floats(0.01, 1)
growths = st.floats(0.5, 1000)


def test_shares_are_those_of_the_published_code(golden: Golden) -> None:
    shares = [admitted_share(epoch, initial_share=0.1, growth_epochs=40) for epoch in range(60)]
    np.testing.assert_allclose(shares, golden.pacing, rtol=1e-5)


def test_the_first_epoch_admits_18_64_per_cent_and_the_40th_all() -> None:
    shares = [admitted_share(epoch, initial_share=0.1, growth_epochs=40) for epoch in (0, 38, 39)]
    assert shares == pytest.approx([0.18641, 0.98755, 1.0], abs=1e-5)


@given(st.integers(0, 2**31), initial_shares, growths)
def test_a_share_is_positive_and_at_most_1(epoch: int, initial_share: float, growth: float) -> None:
    assert 0 < admitted_share(epoch, initial_share=initial_share, growth_epochs=growth) <= 1


@given(initial_shares, growths)
def test_squared_shares_grow_by_equal_steps(initial_share: float, growth: float) -> None:
    squares = [admitted_share(epoch, initial_share=initial_share, growth_epochs=growth) ** 2 for epoch in range(20)]
    rising = [s for s in squares if s < 1]
    assert np.diff(rising, n=2) == pytest.approx(0, abs=1e-12)
