"""The venue on the crash of March 2020 and the month around it."""

from __future__ import annotations

from pathlib import Path as Folder

import numpy as np
import pytest

from features.market import Market
from features.sources import import_data
from forecaster.venue import Margins, Path, Population, VenueParams, metrics, simulate


@pytest.mark.real
def test_a_crash_costs_more_the_lower_the_margin(real_data: Folder, tmp_path: Folder, params: VenueParams) -> None:
    for kind in ("1h-futures", "1h-mark", "8h-funding_rate"):
        import_data(
            "freqtrade", real_data / "freqtrade" / "futures" / f"BTC_USDT_USDT-{kind}.feather", tmp_path / "store"
        )
    path = Path.of(Market.open(tmp_path / "store"), "BTCUSDT", "2020-02-20", "2020-03-25", params)
    assert not path.mark_modelled.all()
    assert np.count_nonzero(path.funding) > 90
    few = params.replace(population={"slots": 2000})
    people = Population.draw(few.population, int(path.hours[-1]) + 1)
    short = []
    for im in (0.05, 0.1, 0.28):
        margins = Margins.constant(im, len(path))
        by_depth = [
            metrics(simulate(path.with_market(depth_scale=depth), margins, people, few))["shortfall_bps_oi_year"]
            for depth in (1.0, 0.5, 0.25)
        ]
        assert by_depth == sorted(by_depth)
        short.append(by_depth[0])
    assert short == sorted(short, reverse=True)
    assert short[0] > short[-1]
