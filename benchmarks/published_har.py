"""The HAR family on the data of Bollerslev, Patton and Quaedvlieg (2016), beside the figures they published.

    python benchmarks/published_har.py --data BPQ2016_SP500-1997_2013.parquet

Daily realised measures of the S&P 500, 1997-04-08 to 2013-08-30, 4,096 days: columns RV, RQ, RJ, BPV. The estimators are
those of ``models.har`` and ``models.har_variants``; windows are those of the hourly features. The protocol is the paper's:
means over 1, 5 and 22 days, least squares; out of sample one day ahead from day 1,001 on, on the last 1,000 days (rolling,
978 pairs) or on all days so far (increasing); a forecast outside the range of the last 1,000 days' RV is replaced by their
mean. Losses are relative to the HAR's.

Published: J. Econometrics 192, 1-18, tables 2 to 4. The authors corrected some figures (note with their code, December 2016);
where both exist the corrected ones stand here, of table 4 those that a second implementation also asserts (tests of the R
package HARModel 1.0). Clements and Preve (2021), J. Banking and Finance 133, find that weighted least squares and logs beat
the HAR and the HARQ on the same index; ``wls`` and ``log`` are this project's own estimators.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.kernels import window_mean
from models.har import Part, least_squares, qlike_fit
from models.har_variants import LevelPart, level_fit
from training.losses import qlike

__all__ = ["PUBLISHED", "figures", "in_sample", "out_of_sample", "table"]

Array = npt.NDArray[np.float64]
# A regression on some days: from design (k, n) and target (n,) to what maps a design to forecasts.
Estimator = Callable[[Array, Array], Callable[[Array], Array]]

DAYS: Final = (1, 5, 22)
WINDOW: Final = 1000

# (model, figure): value as published. Losses are relative to the HAR's, on the rolling or the increasing window.
PUBLISHED: Final[Mapping[tuple[str, str], float]] = {
    ("ar", "b1"): 0.651,
    ("arq", "b1"): 0.983,
    ("har", "b0"): 0.1123,
    ("har", "b1"): 0.2273,
    ("har", "b2"): 0.4903,
    ("har", "b3"): 0.1864,
    ("har", "r2"): 0.5224,
    ("harq", "b0"): -0.0098,
    ("harq", "b2"): 0.3586,
    ("harq", "b3"): 0.0976,
    ("harq", "b1q"): -0.3602,
    ("harq", "r2"): 0.5624,
    ("harj", "mse rolling"): 0.9175,
    ("harj", "qlike rolling"): 1.0115,
    ("char", "mse rolling"): 0.9583,
    ("char", "qlike rolling"): 1.0201,
    ("harq", "mse increasing"): 0.8944,
    ("harq", "qlike increasing"): 0.8809,
}


def designs(data: pd.DataFrame) -> dict[str, Array]:
    """The regressors of each model, (k, n_days), known at the end of each day, the constant first; NaN until complete."""
    rv, bpv = data["RV"].to_numpy(), data["BPV"].to_numpy()
    root = np.sqrt(data["RQ"].to_numpy())
    one, error = np.ones(len(rv)), rv * (root - root.mean())
    windows = _means(rv)
    return {
        "ar": np.vstack([one, rv]),
        "arq": np.vstack([one, rv, error]),
        "har": np.vstack([one, windows]),
        "harq": np.vstack([one, windows, error]),
        "harj": np.vstack([one, windows, data["RJ"].to_numpy()]),
        "char": np.vstack([one, _means(bpv)]),
    }


def _means(x: Array) -> Array:
    """Means over the last 1, 5 and 22 days, (3, n_days), by the kernel that makes the hourly windows."""
    return window_mean(np.ascontiguousarray(x[None]), np.array(DAYS, dtype=np.int64), 1.0, 0, 0)[:, 0]


def ordinary(design: Array, target: Array) -> Callable[[Array], Array]:
    """Least squares of the level."""
    b = least_squares([Part(design, target[None], np.ones((1, len(target))))])[0]
    return lambda new: np.asarray(b @ new)


def logarithmic(design: Array, target: Array) -> Callable[[Array], Array]:
    """Log-linear, fitted to QLIKE: the estimator of ``har`` and ``har_seasonal``."""
    logs = np.vstack([design[:1], np.log(design[1:])])
    b = qlike_fit([Part(logs, np.log(target)[None], np.ones((1, len(target))))])[0]
    return lambda new: np.asarray(np.exp(b[0] * new[0] + b[1:] @ np.log(new[1:])))


def weighted(design: Array, target: Array) -> Callable[[Array], Array]:
    """Least squares of the level with weights ``1/F^2``: the estimator of ``har_wls``."""
    first = logarithmic(design, target)(design)
    b = level_fit([LevelPart(design, target[None], np.ones((1, len(target))), first[None])])[0]
    return lambda new: np.asarray(b @ new)


def in_sample(data: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Coefficients and R2 of the least-squares fits on all days: by (model, figure)."""
    target = data["RV"].to_numpy()[max(DAYS) :]
    names = {"ar": "b0 b1", "arq": "b0 b1 b1q", "har": "b0 b1 b2 b3", "harq": "b0 b1 b2 b3 b1q"}
    out: dict[tuple[str, str], float] = {}
    for model, figures in names.items():
        design = designs(data)[model][:, max(DAYS) - 1 : -1]
        b = least_squares([Part(design, target[None], np.ones((1, len(target))))])[0]
        out |= {(model, name): float(x) for name, x in zip(figures.split(), b, strict=True)}
        out[model, "r2"] = float(1 - np.var(target - b @ design) / np.var(target))
    return out


def out_of_sample(data: pd.DataFrame, *, rolling: bool) -> dict[tuple[str, str], float]:
    """MSE and QLIKE of one-day forecasts over those of the HAR: by (model, figure)."""
    regressors = designs(data)
    models: dict[str, tuple[str, Estimator]] = {name: (name, ordinary) for name in ("har", "harj", "char", "harq")}
    models |= {"log": ("har", logarithmic), "wls": ("har", weighted)}
    realised = data["RV"].to_numpy()
    kind = "rolling" if rolling else "increasing"
    losses: dict[str, tuple[float, float]] = {}
    for model, (name, estimator) in models.items():
        forecast = _forecasts(regressors[name], realised, estimator, rolling)
        y = realised[WINDOW:]
        losses[model] = float(((y - forecast) ** 2).mean()), qlike(y, forecast)
    return {
        (model, f"{loss} {kind}"): losses[model][k] / losses["har"][k]
        for model in models
        for k, loss in enumerate(("mse", "qlike"))
    }


def _forecasts(design: Array, realised: Array, estimator: Estimator, rolling: bool) -> Array:
    """Of each day from number ``WINDOW`` on, made at the end of the day before."""
    out = np.empty(len(realised) - WINDOW)
    for k in range(len(out)):
        day = WINDOW + k
        first = (day - WINDOW if rolling else 0) + max(DAYS) - 1
        fit = estimator(design[:, first : day - 1], realised[first + 1 : day])
        forecast, last = float(fit(design[:, [day - 1]])[0]), realised[day - WINDOW : day]
        out[k] = forecast if last.min() <= forecast <= last.max() else last.mean()
    return out


def figures(data: pd.DataFrame) -> dict[tuple[str, str], float]:
    """All figures by (model, figure)."""
    return in_sample(data) | out_of_sample(data, rolling=True) | out_of_sample(data, rolling=False)


def table(made: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """Every figure beside the published one, where there is one."""
    frame = pd.DataFrame({"reproduced": pd.Series(dict(made)), "published": pd.Series(dict(PUBLISHED))})
    frame.index.names = ["model", "figure"]
    return frame.assign(difference=frame["reproduced"] - frame["published"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="Parquet file with columns RV, RQ, RJ and BPV, one row a day"
    )
    made = figures(pd.read_parquet(parser.parse_args().data))
    print(table(made).to_string(float_format=lambda x: f"{x:.4f}", na_rep=""))


if __name__ == "__main__":
    main()
