"""The command line. A command parses, calls one function and returns its result; ``Terminal`` shows it.

Everything heavy is imported inside the command that needs it, so that ``--help`` is instant.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer
from typer import Argument, Option

from features.errors import DataInvalid, UsageError
from forecaster.terminal import Outcome, Progress, Result, Terminal

__all__ = ["app", "main"]

FLAGS: Final = ("--json", "--quiet", "--debug")
EPILOG: Final = (
    "Every command: --json (one object on stdout; help stays text), --quiet (errors only), --debug (tracebacks). "
    "Exit codes: 0 done, 1 unexpected, 2 usage, 3 data invalid, 4 data stale, 5 leakage, 6 model refused, "
    "7 locked, 8 stopped (run again to resume)."
)

_typer = partial(typer.Typer, rich_markup_mode=None, add_completion=False, epilog=EPILOG)
app = _typer(help="Volatility forecasts of crypto perpetuals, and the margins that follow.")
data = _typer(help="Fetch or import market data, and check them.")
features = _typer(help="What the features are worth, and what they are like.")
schedules = _typer(invoke_without_command=True)
app.add_typer(data, name="data")
app.add_typer(features, name="features")
app.add_typer(schedules, name="policy")

_command = partial(app.command, epilog=EPILOG)

Config: TypeAlias = Annotated[
    Path | None, Argument(metavar="[CONFIG]", help="TOML file; without it, the recommended settings.")
]
StoreDir: TypeAlias = Annotated[
    Path | None, Option("--store", metavar="DIR", help="The store; default: FORECASTER_STORE.")
]
Overrides: TypeAlias = Annotated[
    list[str] | None, Option("--set", metavar="a.b=c", help="Override one setting; repeatable.")
]
Instant: TypeAlias = Annotated[
    str | None, Option("--as-of", metavar="T", help="ISO date or instant, UTC; default: the newest data.")
]
Jobs: TypeAlias = Annotated[int | None, Option("--jobs", min=1, help="Processes; default: one a core.")]
EngineName: TypeAlias = Annotated[
    str | None, Option("--engine", metavar="loky|dask://HOST:PORT", help="Where it is computed; default: this machine.")
]
TABLE: Final = (
    "Forecast table (Parquet), or the folder of a Parquet sink. A venue may join obs_oracle_gap and "
    "obs_insurance_fund_usd to the table."
)
Forecasts: TypeAlias = Annotated[Path | None, Option("--forecasts", metavar="FILE", help=TABLE)]
Params: TypeAlias = Annotated[
    Path | None,
    Option("--params", metavar="FILE", help="Parameter pack of the policy (TOML); default: the one shipped."),
]
ScheduleFile: TypeAlias = Annotated[Path, Argument(metavar="SCHEDULE", help="A schedule.jsonl.")]
LOG: Final = "events.jsonl, the log of bounds and overrides; its signatures lie beside it in events.sig.jsonl."
KEYS: Final = "Registry of the holders' public keys, and how many of them must sign."
EventsFile: TypeAlias = Annotated[Path, Argument(metavar="EVENTS", help=f"{LOG} Made if it is not there.")]
Events: TypeAlias = Annotated[Path, Option("--events", metavar="FILE", help=LOG)]
KeyFile: TypeAlias = Annotated[
    Path, Option("--key", metavar="FILE.pem", help="Your private key (Ed25519), made by forecaster policy keys --new.")
]
SaltFile: TypeAlias = Annotated[
    Path, Option("--key", metavar="FILE.pem", help="The venue's secret, one for commit and prove: policy keys --new.")
]
RegistryFile: TypeAlias = Annotated[Path, Option("--registry", metavar="FILE.toml", help=KEYS)]
Acting: TypeAlias = Annotated[
    Path | None,
    Option(
        "--events", metavar="FILE", help=f"{LOG} Overrides act as far as enough keys have signed; needs --registry."
    ),
]
ActingRegistry: TypeAlias = Annotated[Path | None, Option("--registry", metavar="FILE.toml", help=KEYS)]
Dated: TypeAlias = Annotated[
    str | None, Option("--at", metavar="T", help="When it is proposed, UTC, not ahead of now; default: now.")
]
Accounts: TypeAlias = Annotated[
    Path, Argument(metavar="ACCOUNTS.csv", help="Columns account, equity_micro_usd, maintenance_micro_usd.")
]
CommittedAt: TypeAlias = Annotated[
    str, Option("--as-of", metavar="T", help="Instant of the accounts, UTC; the same for commit and prove.")
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (None: the process's) and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Read before the rest is parsed, so that a usage error, too, is shown the way that was asked.
    flags = {flag.removeprefix("--"): flag in words for flag in FLAGS}
    # Help is for people: text on stdout, whatever else was asked.
    terminal = Terminal(**flags | {"json": flags["json"] and "--help" not in words})
    words = [word for word in words if word not in FLAGS]
    # A polite kill unwinds like Ctrl-C: finished work is kept, locks and child processes end.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return terminal.run(lambda: app(words, prog_name="forecaster", standalone_mode=False, obj=terminal))
    finally:
        signal.signal(signal.SIGTERM, before)


@app.callback(invoke_without_command=True)
@data.callback(invoke_without_command=True)
@features.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Refuse to do nothing."""
    if context.invoked_subcommand is None:
        raise UsageError(f"name a command; see {context.command_path} --help")


@_command("demo")
def demo(
    context: typer.Context,
    out: Annotated[Path, Option("--out", metavar="DIR", help="Where all results go.")] = Path("demo-output"),
) -> Result:
    """The whole product on a simulated market."""
    from forecaster.commands.demonstration import demo as perform

    with _progress(context) as progress:
        return perform(out, progress)


@_command("run")
def run(
    context: typer.Context,
    config: Annotated[Path, Argument(metavar="CONFIG", help="TOML file of the run.")],
    store: StoreDir = None,
    out: Annotated[Path | None, Option("--out", metavar="DIR", help="Default: data.out of CONFIG.")] = None,
    jobs: Jobs = None,
    engine: EngineName = None,
    overrides: Overrides = None,
) -> Result:
    """The whole product on your own data."""
    from forecaster.commands.evaluation import run as perform

    with _progress(context) as progress:
        return perform(
            config, store, out, jobs=jobs, engine=engine, overrides=overrides or (), progress=progress
        )  # fmt: skip


@data.command("import", epilog=EPILOG)
def data_import(
    context: typer.Context,
    path: Annotated[str, Argument(metavar="PATH", help="File or folder; simulated: seed:7, or a TOML file.")],
    kind: Annotated[str, Option("--from", metavar="freqtrade|vision|parquet|trades|simulated", help="The format.")],
    store: StoreDir = None,
    table: Annotated[str | None, Option("--table", metavar="NAME", help="parquet: the table to fill.")] = None,
    columns: Annotated[
        str, Option("--columns", metavar="target=source,…", help="parquet: the file's names of columns.")
    ] = "",
    constants: Annotated[
        list[str] | None, Option("--set", metavar="column=value", help="parquet: a constant; repeatable.")
    ] = None,
    delay: Annotated[
        str | None, Option("--delay", metavar="24h", help="parquet: how long after its clock a row is known.")
    ] = None,
    intervals: Annotated[
        str, Option("--intervals", metavar="1m,1h", help="trades: the bars to make; default: 1m,1h.")
    ] = "",
) -> Outcome:
    """Read, check and store; bad rows: quarantine, exit 3."""
    from forecaster.commands.data import data_import as perform

    with _progress(context) as progress:
        report = perform(
            kind, path, store, table=table, columns=_listed(columns), set_=constants or (), delay=delay,
            intervals=_listed(intervals), progress=progress,
        )  # fmt: skip
    return Outcome(report, DataInvalid.exit_code if report.quarantined else 0)


@data.command("fetch", epilog=EPILOG)
def data_fetch(
    context: typer.Context,
    venue: Annotated[str, Argument(metavar="binance", help="Whose public archive.")],
    symbols: Annotated[str, Option("--symbols", metavar="A,B", help="Such as BTCUSDT,ETHUSDT.")],
    since: Annotated[str, Option("--since", metavar="DAY", help="First day, UTC.")],
    until: Annotated[str | None, Option("--until", metavar="DAY", help="End, exclusive; default: today.")] = None,
    datasets: Annotated[
        str, Option("--datasets", metavar="klines,mark,funding,metrics,spot,aggTrades", help="Default: all but trades.")
    ] = "",
    interval: Annotated[str, Option("--interval", metavar="1h", help="Length of the bars.")] = "1h",
    base_url: Annotated[str | None, Option("--base-url", metavar="URL", help="A mirror of the archive.")] = None,
    connections: Annotated[int, Option("--connections", min=1, max=4, help="At a time.")] = 1,
    recheck: Annotated[
        int, Option("--recheck", min=0, metavar="DAYS", help="Ask again for checksums of files this young.")
    ] = 90,
    store: StoreDir = None,
) -> Outcome:
    """Download, verify and import; resumes; revisions kept."""
    from forecaster.commands.data import data_fetch as perform

    with _progress(context) as progress:
        report = perform(
            venue, _listed(symbols), since, store, until=until, datasets=_listed(datasets), interval=interval,
            base_url=base_url, connections=connections, recheck=recheck, progress=progress,
        )  # fmt: skip
    return Outcome(report, 0 if report.sound else DataInvalid.exit_code)


@data.command("check", epilog=EPILOG)
def data_check(store: StoreDir = None) -> Outcome:
    """Gaps, impossible prices, stale feeds, damaged files."""
    from forecaster.commands.data import data_check as perform

    report = perform(store)
    return Outcome(report, DataInvalid.exit_code if report.errors else 0)


@features.command("list", epilog=EPILOG)
def features_list() -> Result:
    """Every feature: formula, unit, look-back, sign, feeds, reference."""
    from forecaster.commands.features import features_list as perform

    return perform()


@features.command("report", epilog=EPILOG)
def features_report(
    context: typer.Context,
    start: Annotated[str, Option("--start", metavar="T", help="First origin; date or instant, UTC.")],
    end: Annotated[str, Option("--end", metavar="T", help="End of the origins, exclusive.")],
    store: StoreDir = None,
    horizons: Annotated[str | None, Option("--horizons", metavar="1,4,24", help="Hours ahead.")] = None,
    symbols: Annotated[str, Option("--symbols", metavar="A,B", help="Symbols scored; default: all.")] = "",
    focus: Annotated[
        str | None, Option("--focus", metavar="SYMBOL", help="Score it alone, where a group's feeds exist.")
    ] = None,
    families: Annotated[bool, Option("--families", help="Also add and remove every single family.")] = False,
    out: Annotated[Path, Option("--out", metavar="DIR", help="Where the results go.")] = Path("features-report"),
    jobs: Jobs = None,
    engine: EngineName = None,
    overrides: Overrides = None,
) -> Result:
    """Coverage, drift, redundancy; worth out of sample; resumes."""
    from forecaster.commands.features import features_report as perform

    with _progress(context) as progress:
        return perform(
            store, start=start, end=end, out=out, symbols=_listed(symbols), horizons=horizons, focus=focus,
            by_family=families, jobs=jobs, engine=engine, overrides=overrides or (), progress=progress,
        )  # fmt: skip


@_command("evaluate")
def evaluate(
    context: typer.Context,
    config: Config = None,
    store: StoreDir = None,
    start: Annotated[str | None, Option("--start", metavar="T", help="First origin; date or instant, UTC.")] = None,
    end: Annotated[str | None, Option("--end", metavar="T", help="End of the origins, exclusive.")] = None,
    symbols: Annotated[str, Option("--symbols", metavar="A,B", help="Symbols written; default: all.")] = "",
    horizons: Annotated[str | None, Option("--horizons", metavar="1,4,24", help="Hours ahead.")] = None,
    out: Annotated[Path | None, Option("--out", metavar="DIR", help="Where the results go.")] = None,
    jobs: Jobs = None,
    engine: EngineName = None,
    overrides: Overrides = None,
) -> Result:
    """Out-of-sample forecasts and scores; resumes."""
    from forecaster.commands.evaluation import evaluate as perform

    with _progress(context) as progress:
        return perform(
            config, store, start=start, end=end, symbols=_listed(symbols), horizons=horizons, out=out,
            jobs=jobs, engine=engine, overrides=overrides or (), progress=progress,
        )  # fmt: skip


@_command("tune")
def tune(
    context: typer.Context,
    before: Annotated[str, Option("--before", metavar="T", help="Nothing of later is read; date or instant, UTC.")],
    out: Annotated[Path, Option("--out", metavar="DIR", help="Trials, and the configuration chosen.")],
    config: Config = None,
    store: StoreDir = None,
    trials: Annotated[int, Option("--trials", min=1, metavar="N", help="A member, and the combination.")] = 40,
    months: Annotated[int, Option("--months", min=3, metavar="N", help="Of inner folds before T.")] = 18,
    space: Annotated[
        Path | None, Option("--space", metavar="FILE", help="TOML of what may be chosen; default: the one shipped.")
    ] = None,
    horizons: Annotated[str | None, Option("--horizons", metavar="1,4,24", help="Hours ahead.")] = None,
    jobs: Jobs = None,
    engine: EngineName = None,
    overrides: Overrides = None,
) -> Result:
    """Search settings on folds before a time; resumes."""
    from forecaster.commands.tuning import tune as perform

    with _progress(context) as progress:
        return perform(
            config, store, before=before, out=out, trials=trials, months=months, space=space, horizons=horizons,
            jobs=jobs, engine=engine, overrides=overrides or (), progress=progress,
        )  # fmt: skip


@_command("scorecard")
def scorecard(
    context: typer.Context,
    out: Annotated[Path, Option("--out", metavar="DIR", help="Where the results go.")],
    config: Config = None,
    store: StoreDir = None,
    start: Annotated[str, Option("--start", metavar="T", help="First origin.")] = "2023-07-01",
    end: Annotated[str, Option("--end", metavar="T", help="End of the origins, exclusive.")] = "2025-07-01",
    long_start: Annotated[
        str | None,
        Option("--long-start", metavar="T", help="First origin of symbols with two years of history; a year before."),
    ] = None,
    card: Annotated[Path | None, Option("--card", metavar="FILE", help="The model card to write.")] = None,
    jobs: Jobs = None,
    engine: EngineName = None,
    overrides: Overrides = None,
) -> Outcome:
    """The goals, beside plain opponents; resumes. Suspect: exit 5."""
    from forecaster.commands.scorecards import scorecard as perform

    with _progress(context) as progress:
        result = perform(
            config, store, out=out, start=start, end=end, long_start=long_start, card=card, jobs=jobs, engine=engine,
            overrides=overrides or (), progress=progress,
        )  # fmt: skip
    return Outcome(result, result.exit_code)


@_command("leave-out")
def leave_out(
    context: typer.Context,
    symbols: Annotated[str, Option("--symbols", metavar="A,B", help="Symbols that nothing is learnt from.")],
    out: Annotated[Path, Option("--out", metavar="DIR", help="Where the results go.")],
    config: Config = None,
    store: StoreDir = None,
    start: Annotated[str, Option("--start", metavar="T", help="First origin.")] = "2023-07-01",
    end: Annotated[str, Option("--end", metavar="T", help="End of the origins, exclusive.")] = "2025-07-01",
    jobs: Jobs = None,
    engine: EngineName = None,
    overrides: Overrides = None,
) -> Result:
    """Forecasts of symbols never learnt from; resumes."""
    from forecaster.commands.scorecards import leave_out as perform

    with _progress(context) as progress:
        return perform(
            config, store, symbols=_listed(symbols), out=out, start=start, end=end, jobs=jobs, engine=engine,
            overrides=overrides or (), progress=progress,
        )  # fmt: skip


@_command("ladder")
def ladder(
    context: typer.Context,
    out: Annotated[Path, Option("--out", metavar="DIR", help="Where the results go.")],
    store: StoreDir = None,
    start: Annotated[str, Option("--start", metavar="T", help="First origin.")] = "2023-07-01",
    end: Annotated[str, Option("--end", metavar="T", help="End of the origins, exclusive.")] = "2025-07-01",
    jobs: Jobs = None,
    engine: EngineName = None,
    overrides: Overrides = None,
) -> Result:
    """What data add, and what machine learning adds; resumes."""
    from forecaster.commands.scorecards import ladder as perform

    with _progress(context) as progress:
        return perform(
            store, out=out, start=start, end=end, jobs=jobs, engine=engine, overrides=overrides or (), progress=progress
        )


@_command("train")
def train(config: Config = None, store: StoreDir = None, as_of: Instant = None, overrides: Overrides = None) -> Result:
    """Fit on everything up to a time: a challenger."""
    from forecaster.commands.serving import train as perform

    return perform(config, store, as_of, overrides=overrides or ())


@_command("promote")
def promote(
    version: Annotated[int | None, Argument(metavar="[VERSION]", help="Default: the challenger.")] = None,
    force: Annotated[bool, Option("--force", help="Skip the comparison of losses, never the checks.")] = False,
) -> Result:
    """Make a model champion, if it passes the gate."""
    from forecaster.commands.serving import promote as perform

    return perform(version, force=force)


@_command("forecast")
def forecast(
    sink: Annotated[str, Option("--sink", metavar="parquet:DIR", help="Where the forecasts go.")],
    store: StoreDir = None,
    as_of: Instant = None,
    model: Annotated[str | None, Option("--model", metavar="URI", help="Default: the champion.")] = None,
) -> Result:
    """Forecasts of the champion into a sink."""
    from forecaster.commands.serving import forecast as perform

    return perform(store, as_of, model, sink)


@_command("explain")
def explain(
    symbol: Annotated[str, Argument(metavar="SYMBOL")],
    time: Annotated[str, Argument(metavar="TIME", help="The forecast's origin; date or instant, UTC.")],
    forecasts: Annotated[
        Path, Option("--forecasts", metavar="FILE", help="Forecast table, or the folder of a Parquet sink.")
    ],
    horizon: Annotated[int | None, Option("--horizon", min=1, metavar="H", help="Hours ahead; default: all.")] = None,
) -> Result:
    """Why this forecast."""
    from forecaster.commands.explaining import explain as perform

    return perform(forecasts, symbol, time, horizon)


@schedules.callback(epilog=EPILOG)
def policy(
    context: typer.Context,
    forecasts: Forecasts = None,
    store: StoreDir = None,
    params: Params = None,
    out: Annotated[
        Path | None, Option("--out", metavar="FILE", help="The schedule to write; replaced as a whole.")
    ] = None,
    events: Acting = None,
    registry: ActingRegistry = None,
) -> Result | None:
    """Margin schedules: made, replayed, explained, signed.

    With --forecasts and --out: make the schedule, one line per symbol and forecast origin, and check it.
    """
    if (command := context.invoked_subcommand) is not None:
        if any(given is not None for given in (forecasts, store, params, out, events, registry)):
            raise UsageError(
                f"options before {command} belong to policy alone; write them behind it: policy {command} …"
            )
        return None
    if forecasts is None or out is None:
        raise UsageError("policy needs --forecasts FILE and --out schedule.jsonl; see forecaster policy --help")
    from forecaster.commands.schedules import policy as perform

    return perform(forecasts, store, params, out, events, registry)


@schedules.command("replay", epilog=EPILOG)
def policy_replay(
    schedule: ScheduleFile,
    forecasts: Forecasts = None,
    store: StoreDir = None,
    params: Params = None,
    events: Acting = None,
    registry: ActingRegistry = None,
) -> Result:
    """Check a schedule; with inputs, derive it again.

    Alone: hashes, chain, invariants. With --forecasts and what else made it: every line again, byte for byte.
    """
    from forecaster.commands.schedules import policy_replay as perform

    return perform(schedule, forecasts, store, params, events, registry)


@schedules.command("explain", epilog=EPILOG)
def policy_explain(
    schedule: ScheduleFile,
    symbol: Annotated[str, Argument(metavar="SYMBOL", help="Such as BTCUSDT.")],
    time: Annotated[str, Argument(metavar="TIME", help="Instant, UTC: the margin in force then is explained.")],
) -> Result:
    """Why this margin: what moved it, what held it back."""
    from forecaster.commands.schedules import policy_explain as perform

    return perform(schedule, symbol, time)


@schedules.command("keys", epilog=EPILOG)
def policy_keys(
    registry: Annotated[Path | None, Option("--registry", metavar="FILE.toml", help="Check and list its keys.")] = None,
    new: Annotated[
        Path | None,
        Option("--new", metavar="FILE.pem", help="Make a private key here, for its owner alone; never overwrites."),
    ] = None,
) -> Result:
    """Check a registry of keys, or make a key.

    A registry is TOML: threshold = K, and for each holder a table [[keys]] with name, public_key (as --new prints it),
    valid_from, valid_until (instants such as 2024-01-31T08:00:00Z, without quotes) and revoked = false.
    """
    from forecaster.commands.signing import policy_keys as perform

    return perform(registry, new)


@schedules.command("sign", epilog=EPILOG)
def policy_sign(
    key: KeyFile,
    registry: RegistryFile,
    events: Events,
    schedule: Annotated[
        Path | None, Argument(metavar="[SCHEDULE]", help="A schedule.jsonl; default: the log of events.")
    ] = None,
) -> Result:
    """Sign a schedule, or the log of events.

    Signs the last line, and with it all before it; refuses what does not hold, and a schedule beyond the bounds. The
    signature goes to a file beside: schedule.sig.jsonl, events.sig.jsonl.
    """
    from forecaster.commands.signing import policy_sign as perform

    return perform(key, registry, events, schedule)


@schedules.command("verify", epilog=EPILOG)
def policy_verify(schedule: ScheduleFile, registry: RegistryFile, events: Events) -> Result:
    """Check signatures, k of n, and bounds of a schedule.

    And, as policy replay does, its hashes, chain and invariants. That overrides acted as they were signed, policy replay
    with --forecasts and --events shows.
    """
    from forecaster.commands.signing import policy_verify as perform

    return perform(schedule, registry, events)


@schedules.command("override", epilog=EPILOG)
def policy_override(
    events: EventsFile,
    symbol: Annotated[str, Argument(metavar="SYMBOL", help="Such as BTCUSDT, or *, for all.")],
    who: Annotated[
        str, Option("--who", metavar="NAME", help="Key holder, as in the registry, who asks for it and must sign it.")
    ],
    why: Annotated[str, Option("--why", metavar="TEXT", help="The reason, for the record.")],
    expires: Annotated[str, Option("--expires", metavar="T", help="End, UTC; lines from then on are free of it.")],
    floor: Annotated[
        int | None, Option("--floor", metavar="PPM", help="Least initial margin, in ppm: 200000 is 20 %.")
    ] = None,
    cap: Annotated[int | None, Option("--cap", metavar="PPM", help="Largest initial margin, in ppm.")] = None,
    start: Annotated[
        str | None, Option("--start", metavar="T", help="Begin, UTC; default: --at. Leave time for the signatures.")
    ] = None,
    at: Dated = None,
    acknowledged: Annotated[
        bool, Option("--acknowledged", help="The floor may exceed the limits on rises of one and five days.")
    ] = False,
) -> Result:
    """Propose an override; neither floor nor cap: a hold.

    It acts from --start until --expires on schedules made with --events, once k of n holders have signed the log with
    policy sign. Where fewer have signed, or it has expired, it does not act.
    """
    from forecaster.commands.signing import policy_override as perform

    return perform(
        events, symbol, who, why, expires, im_floor_ppm=floor, im_cap_ppm=cap, start=start, at=at,
        acknowledged=acknowledged,
    )  # fmt: skip


@schedules.command("bounds", epilog=EPILOG)
def policy_bounds(
    events: EventsFile,
    bounds: Annotated[
        Path, Argument(metavar="FILE.toml", help="override_hours, and floor, cap and rise_ppm by symbol and parameter.")
    ],
    at: Dated = None,
) -> Result:
    """Propose the bounds that no schedule may leave.

    The file holds override_hours and a table [symbols."*".PARAMETER] with floor, cap and rise_ppm for each of im_ppm,
    mm_ppm, liquidation_penalty_ppm, haircut_ppm, exposure_scale_ppm and max_leverage_milli. They hold once k of n
    holders have signed the log with policy sign.
    """
    from forecaster.commands.signing import policy_bounds as perform

    return perform(events, bounds, at)


@schedules.command("rollout", epilog=EPILOG)
def policy_rollout(
    schedule: ScheduleFile,
    record: Annotated[
        Path,
        Option("--record", metavar="FILE", help="rollout.jsonl, the chained record to go on with; made if not there."),
    ],
    events: Events,
    registry: RegistryFile,
    store: StoreDir = None,
    params: Params = None,
    canaries: Annotated[
        str,
        Option("--canary", metavar="A,B", help="Symbols of the canary stage; default: rollout.canaries of the pack."),
    ] = "",
    as_of: Annotated[
        str | None, Option("--as-of", metavar="T", help="Bring the record up to this instant, UTC; default: now.")
    ] = None,
) -> Result:
    """Where a policy stands: shadow, canary, live; and why.

    Every hour is a step: it counts the origins whose 24 h excursion the store now holds, misses of the margin among
    them, and lines beyond the signed bounds. A full block with few enough misses leads on; too many misses, one line
    beyond the bounds, or too long a silence leads back to shadow. The limits stand in [rollout] of the parameter pack,
    which must be the one that made the schedule.
    """
    from forecaster.commands.rollout import policy_rollout as perform

    return perform(schedule, record, events, registry, store, params, _listed(canaries), as_of)


@schedules.command("commit", epilog=EPILOG)
def policy_commit(
    accounts: Accounts,
    key: SaltFile,
    as_of: CommittedAt,
    out: Annotated[Path, Option("--out", metavar="FILE", help="The root, to be published.")],
) -> Result:
    """Commit to the margins of all accounts (Merkle root).

    It binds the venue to what it tells each owner; it is no proof that the figures are true or complete.
    """
    from forecaster.commands.signing import policy_commit as perform

    return perform(accounts, key, as_of, out)


@schedules.command("prove", epilog=EPILOG)
def policy_prove(
    accounts: Accounts,
    account: Annotated[str, Argument(metavar="ACCOUNT", help="Its name in the table.")],
    key: SaltFile,
    as_of: CommittedAt,
    out: Annotated[Path, Option("--out", metavar="FILE", help="The proof, for the owner alone.")],
) -> Result:
    """Prove to one owner that the account was counted."""
    from forecaster.commands.signing import policy_prove as perform

    return perform(accounts, key, as_of, account, out)


@schedules.command("included", epilog=EPILOG)
def policy_included(
    proof: Annotated[Path, Argument(metavar="PROOF", help="What the venue gave the owner.")],
    root: Annotated[Path, Argument(metavar="ROOT", help="What the venue published.")],
) -> Result:
    """Check such a proof against the published root."""
    from forecaster.commands.signing import policy_included as perform

    return perform(proof, root)


@_command("backtest")
def backtest(
    context: typer.Context,
    forecasts: Annotated[Path, Option("--forecasts", metavar="FILE", help=TABLE)],
    config: Annotated[
        Path | None, Argument(metavar="[CONFIG]", help="TOML file that names store, out, dates and workers; optional.")
    ] = None,
    store: StoreDir = None,
    out: Annotated[
        Path | None, Option("--out", metavar="DIR", help="Where the results go; default: data.out of CONFIG.")
    ] = None,
    params: Params = None,
    venue: Annotated[
        Path | None, Option("--venue", metavar="FILE", help="Pack of the simulated venue; default: the one shipped.")
    ] = None,
    no_venue: Annotated[
        bool,
        Option(
            "--no-venue", help="Do not simulate the venue: margins against prices alone, in a fraction of the time."
        ),
    ] = False,
    start: Annotated[
        str | None,
        Option(
            "--start", metavar="T", help="First origin scored; earlier ones set the scalars. Default: after a month."
        ),
    ] = None,
    end: Annotated[
        str | None, Option("--end", metavar="T", help="End of the origins, exclusive; default: all forecasts.")
    ] = None,
    events: Annotated[
        Path | None,
        Option("--events", metavar="FILE", help=f"{LOG} Overrides act on schedule.jsonl, not on the scores."),
    ] = None,
    registry: ActingRegistry = None,
    jobs: Jobs = None,
    engine: EngineName = None,
    overrides: Overrides = None,
) -> Result:
    """Margin policies against each other in a venue; resumes.

    Writes policy_scores.json and its siblings, policy_goals.json, policy_experiments.json, schedule.jsonl and report.html.
    """
    from forecaster.commands.backtesting import backtest as perform

    with _progress(context) as progress:
        return perform(
            config, store, forecasts=forecasts, out=out, params=params, venue=venue, simulated=not no_venue, start=start,
            end=end, jobs=jobs, engine=engine, overrides=overrides or (), events=events, registry=registry,
            progress=progress,
        )  # fmt: skip


@_command("leakcheck")
def leakcheck(
    context: typer.Context,
    config: Config = None,
    store: StoreDir = None,
    cuts: Annotated[int, Option("--cuts", min=1, metavar="N", help="Instants at which data are cut.")] = 50,
    deep_cuts: Annotated[
        int, Option("--deep-cuts", min=0, metavar="N", help="Of these, with every row of the history.")
    ] = 5,
    forecast_cuts: Annotated[
        int, Option("--forecast-cuts", min=0, metavar="N", help="Instants at which forecasts are made again.")
    ] = 6,
    live_bars: Annotated[int, Option("--live-bars", min=0, metavar="N", help="Bars played again one by one.")] = 48,
    restarts: Annotated[int, Option("--restarts", min=1, metavar="N", help="Live processes that play them.")] = 4,
    overrides: Overrides = None,
) -> Result:
    """Search for look-ahead: exit 5, first bad cell."""
    from forecaster.commands.checks import leakcheck as perform

    sizes = {"deep_cuts": deep_cuts, "forecast_cuts": forecast_cuts, "live_bars": live_bars, "restarts": restarts}
    with _progress(context) as progress:
        return perform(config, store, cuts, overrides=overrides or (), progress=progress, **sizes)


@_command("schema")
def schema(
    name: Annotated[str | None, Argument(metavar="[NAME]", help="Without it: all names.")] = None,
) -> Result:
    """Shapes of configuration, outputs and tables."""
    from forecaster.commands.schemas import schema as perform

    return perform(name)


def _progress(context: typer.Context) -> AbstractContextManager[Progress]:
    return context.ensure_object(Terminal).progress()


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
