"""Run the suite against any gateway: see README.md.

python -m tests.bad_provider --gateway http://127.0.0.1:8000/v1 --key KEY --provider-port 9100 --model bad-provider
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from tests.bad_provider.bills import BillError, Source, source
from tests.bad_provider.case import Case, Kind
from tests.bad_provider.client import Target, ask
from tests.bad_provider.judge import Charge, Price, Verdict, judge
from tests.bad_provider.provider import Provider
from tests.bad_provider.suites import cases, control

# A gateway may leave a failing provider alone for a while. It must come back.
RECOVERY_SECONDS = 90.0


class NotReady(Exception):
    """The gateway cannot be tested as it is configured."""


async def run(target: Target, chosen: Sequence[Case], bill: Source, port: int, host: str) -> int:
    """Play all cases, print a line for each; how many failed."""
    failed = good = 0
    async with Provider(cases(), port, host) as provider:
        for dialect in dict.fromkeys(case.dialect for case in chosen):
            await _recover(target, control(dialect, stream=False), seconds=0)
        for case in chosen:
            verdict = await _attempt(target, case, bill)
            failed += bool(verdict.problems)
            good += not verdict.problems and not verdict.best
            _print(case, verdict)
            if case.right[0].kind is not Kind.ANSWER or verdict.problems:
                await _recover(target, control(case.dialect, stream=False), seconds=RECOVERY_SECONDS)
        if provider.trapped:
            failed += 1
            print(f"FAIL  a redirect was followed {provider.trapped} times")
    print(f"{len(chosen)} cases: {len(chosen) - failed} right ({good} of them not in the best way), {failed} wrong")
    return failed


async def _attempt(target: Target, case: Case, bill: Source) -> Verdict:
    before = await bill.before()
    try:
        seen = await ask(target, case)
    except TimeoutError:
        return Verdict(("no end of the answer within a minute",))
    verdict = judge(case, seen, await bill.after(seen, before), asked=True)
    if case.again and not verdict.problems:
        honest = control(case.dialect, stream=case.stream)
        verdict = judge(honest, await ask(target, honest), Charge(), asked=True)
    return verdict


async def _recover(target: Target, honest: Case, *, seconds: float) -> None:
    """Wait until an honest answer gets through again."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        verdict = judge(honest, await ask(target, honest), Charge(), asked=True)
        if not verdict.problems:
            return
        if loop.time() >= until:
            raise NotReady(f"{honest.name} fails: {'; '.join(verdict.problems)}")
        await asyncio.sleep(1)


def _print(case: Case, verdict: Verdict) -> None:
    if not verdict.problems:
        print(f"{'ok   ' if verdict.best else 'good '} {case.name}", flush=True)
        return
    print(f"FAIL  {case.name}\n      right: {case.right[0]}\n      why:   {case.why}")
    for problem in verdict.problems:
        print(f"      but:   {problem}", flush=True)


def _list(chosen: Sequence[Case]) -> None:
    for case in chosen:
        print(f"{case.name}\n    {case.why}")
        for outcome in case.right:
            print(f"    - {outcome}")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bad_provider", description=__doc__)
    parser.add_argument("--gateway", default="http://127.0.0.1:8000/v1", help="its URL, up to /chat/completions")
    parser.add_argument("--key", default="", help="a customer's key")
    parser.add_argument("--provider-port", type=int, default=9100, help="where the bad provider listens")
    parser.add_argument("--provider-host", default="127.0.0.1")
    parser.add_argument("--model", help="the gateway's name for a model of the provider in OpenAI's dialect")
    parser.add_argument("--anthropic-model", help="the same in Anthropic's")
    parser.add_argument("--gemini-model", help="the same in Gemini's")
    parser.add_argument("--bill", default="usage", help="usage, header:NAME, field:NAME or command:LINE")
    parser.add_argument("--price", default="1,2,0.1", help="USD per million tokens: input, output, cached input")
    parser.add_argument("--settle", type=float, default=0.5, help="seconds until the books are right")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--list", action="store_true", help="say what the cases are, and run nothing")
    options = parser.parse_args(arguments)
    models = {"openai": options.model, "anthropic": options.anthropic_model, "gemini": options.gemini_model}
    chosen = [case for case in cases() if options.only in case.name and (options.list or models[case.dialect])]
    if options.list:
        _list(chosen)
        return 0
    if not chosen:
        parser.error("no case is left: name a model (--model), and perhaps less in --only")
    try:
        price = Price(*(float(part) / 1e6 for part in options.price.split(",")))
        bill = source(options.bill, price, options.settle)
        target = Target(options.gateway, options.key, {name: model for name, model in models.items() if model})
        return min(1, asyncio.run(run(target, chosen, bill, options.provider_port, options.provider_host)))
    except (NotReady, BillError, OSError, TypeError, ValueError) as error:
        print(f"bad_provider: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
