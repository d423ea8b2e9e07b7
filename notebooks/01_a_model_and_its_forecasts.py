# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A model and its forecasts
#
# Train a model on a small simulated market, open what was stored, and read one forecast: how volatile the next day
# will be, how sure that is, and what it means for a position. Everything below works the same on your own store.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import forecaster as fc
from features.targets import realised
from forecaster.commands.data import data_import
from forecaster.commands.serving import promote, train
from forecaster.settings import Settings
from models import artifact
from models.base import RETURN_LEVELS
from training.config import RunConfig
from training.registry import Registry
from training.tracking import Tracking

work = Path("notebook-output")
work.mkdir(exist_ok=True)
settings = Settings.load().model_copy(update={"home": work, "tracking": None})  # nothing leaves this folder

# %% [markdown]
# ## A market
#
# Four months of two perpetuals. The store is what every command reads; to use your own data, import them instead
# (`forecaster data import --from freqtrade …`).

# %%
(work / "market.json").write_text(json.dumps({"seed": 7, "days": 130, "symbols": 2}))
print(data_import("simulated", work / "market.json", work / "store").summary())
market = fc.read(work / "store")
market.bars()[["open", "high", "low", "close", "volume"]].tail()

# %% [markdown]
# ## A model
#
# Three members that need little history, and their combination. `train` fits them on everything known at an instant,
# and registers the result as *challenger*; `promote` makes it *champion* if its out-of-sample losses pass the gate.

# %%
config = RunConfig.load(
    None, ["name=notebook", "horizons=[1, 24]", 'members=[{kind="ewma"}, {kind="har"}, {kind="har_seasonal"}]']
)
last_month = market.bars().index.get_level_values("close_time").max() - pd.Timedelta(days=2)
print(train(config, market, last_month, settings=settings).summary())
print(promote(settings=settings).summary())

# %% [markdown]
# A model is a folder of JSON, plain arrays and tables under a manifest of hashes: it can be read, compared and
# archived without running any code of ours. Its name is the sha256 of the manifest, and every forecast carries it.

# %%
registry = Registry(Tracking(settings.tracking_uri, config.tracking.experiment), settings.model_cache)
champion = registry.champion()
stored = artifact.load(champion.folder, expected_sha256=champion.sha256)
print(champion.uri, champion.sha256[:12], "fitted as of", stored.meta["as_of"], "losses", stored.meta["losses"])
{name: values.shape for name, values in sorted(stored.arrays.items())}

# %% [markdown]
# ## Its forecasts
#
# One row per symbol, origin, horizon and model. `ensemble` is the forecast to use; the members stand beside it.

# %%
table = fc.forecast(market, sink=f"parquet:{work / 'forecasts'}", settings=settings).forecasts
ensemble = table[table["model"] == "ensemble"].set_index(["symbol", "horizon_hours"])
ensemble[["origin", "vol_annualised", "p_calm", "p_normal", "p_stress", "p_crisis", "mae_long_q995", "status"]]

# %% [markdown]
# The quantiles of the return over the next day, and of the worst move against a position, are what margins are set by.

# %%
day = ensemble.xs(24, level="horizon_hours")
figure, axis = plt.subplots(figsize=(7, 3))
for symbol, row in day.iterrows():
    axis.plot(list(RETURN_LEVELS.values()), 100 * row[list(RETURN_LEVELS)].astype(float), marker="o", label=symbol)
axis.set(
    xlabel="probability", ylabel="return over 24 h, per cent", title=f"as of {day['origin'].iloc[0]:%Y-%m-%d %H:%M}"
)
axis.legend()
plt.show()

# %% [markdown]
# ## What came
#
# Forecasts at the origins of the past days, against the variance that came. Quantiles hold 90 % of it if they are right.

# %%
origins = pd.date_range(last_month + pd.Timedelta(hours=1), periods=24, freq="h")
past = pd.concat(fc.forecast(market, origin, settings=settings).forecasts for origin in origins[::2])
past = past[(past["model"] == "ensemble") & (past["horizon_hours"] == 1)].set_index(["symbol", "origin"])
came = realised(market, [1]).xs(1, level="horizon_hours")["variance"].reindex(past.index)
inside = came.between(past["var_q05"], past["var_q95"])
print(f"{inside.mean():.0%} of {len(inside)} hours inside the 5 % to 95 % quantiles")

# %%
figure, axis = plt.subplots(figsize=(7, 3))
for symbol, rows in past.groupby("symbol"):
    hours = rows.index.get_level_values("origin")
    (line,) = axis.plot(hours, 100 * np.sqrt(8760 * rows["variance"]), label=f"{symbol} forecast")
    axis.plot(hours, 100 * np.sqrt(8760 * came.loc[rows.index]), "o", color=line.get_color(), label=f"{symbol} came")
axis.set(ylabel="volatility, per cent a year")
axis.legend(ncols=2, fontsize="small")
figure.autofmt_xdate()
plt.show()
