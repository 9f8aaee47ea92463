"""`python -m bench`: measure, print the tables, write the report."""

import argparse
import os
import signal
import sys
from pathlib import Path

from bench import gateways, measure, parts, postgres, process, report, storm, translation, turns
from bench.peers import NotRunError

HERE = Path(__file__).parent
POSTGRES = "postgres"
STORM = "log-ins"
NAMES = (*(gateway.name for gateway in gateways.GATEWAYS), STORM, POSTGRES)
# The targets compare their CPU so closely that the hour of day would decide: they take turns.
COMPARED = ("nginx", "tollbridge")


def main() -> int:
    wanted = _arguments()
    # If told to end, take the gateways along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load_before = os.getloadavg()
    allowed = sorted(os.sched_getaffinity(0))
    cores = (allowed[0], allowed[-1])
    os.sched_setaffinity(0, {cores[1]})
    only = wanted.only or NAMES
    rows: dict[str, measure.Row] = {}
    not_run: dict[str, str] = {}
    with measure.bench(cores) as on:
        fsync_us = process.fsync_us(on.scratch)
        for gateway in gateways.GATEWAYS:
            if gateway.name not in only:
                continue
            _say(f"{gateway.name} …")
            try:
                soak = wanted.memory or gateway.name == "tollbridge"
                rows[gateway.name] = measure.run(gateway, on, seconds=wanted.seconds, soak=soak)
            except NotRunError as why:
                not_run[gateway.name] = str(why)
                _say(f"{gateway.name}: not run: {why}")
        measured, failed_parts = [], {}
        in_turns = None
        compared = [gateway for gateway in gateways.GATEWAYS if gateway.name in COMPARED and gateway.name in rows]
        if len(compared) > 1:
            _say("in turns …")
            try:
                in_turns = turns.run(compared, on)
            except NotRunError as why:
                failed_parts["in turns"] = str(why)
        for name in parts.PARTS if "tollbridge" in rows else ():
            _say(f"part {name} …")
            try:
                measured.append(parts.run(name, on))
            except NotRunError as why:
                failed_parts[name] = str(why)
        pairs = []
        if "tollbridge" in rows:
            _say("translating …")
            try:
                pairs = translation.run(on)
            except NotRunError as why:
                failed_parts["translating"] = str(why)
        in_storm = None
        if STORM in only:
            _say("a storm of log-ins …")
            try:
                in_storm = storm.run(on)
            except NotRunError as why:
                failed_parts["log-ins"] = str(why)
        on_postgres = None
        if POSTGRES in only:
            _say("on PostgreSQL …")
            try:
                on_postgres = postgres.run_all(on, wanted.seconds)
            except NotRunError as why:
                failed_parts["PostgreSQL"] = str(why)
    results = report.Results(
        rows=rows,
        not_run=not_run,
        parts=measured,
        pairs=pairs,
        failed_parts=failed_parts,
        fsync_us=fsync_us,
        load_before=load_before,
        seconds_per_level=wanted.seconds,
        in_turns=in_turns,
        in_storm=in_storm,
        postgres=on_postgres,
    )
    text = report.render(results)
    print(text)
    if wanted.out or not wanted.only:
        (wanted.out or HERE / "results.md").write_text(text)
    return 0 if rows or in_storm or on_postgres else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Tollbridge beside other gateways, in front of one mock upstream. Some twelve minutes.",
        epilog="example: python -m bench --only nginx,tollbridge --seconds 2",
    )
    parser.add_argument("--only", type=_names, metavar="NAMES", help=f"some of {','.join(NAMES)} (default: all)")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="seconds for each number of connections (default: 6)"
    )
    parser.add_argument(
        "--memory", action="store_true", help="the long load (100,000 requests) for every gateway, not Tollbridge alone"
    )
    parser.add_argument(
        "--out", type=Path, help="where to write the report (default: bench/results.md after a whole run)"
    )
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := sorted(set(names) - set(NAMES)):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
