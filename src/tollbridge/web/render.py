"""Templates: Jinja2 with everything escaped, undefined names as errors, and filters for what pages show."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from tollbridge.core import money
from tollbridge.core.periods import day_text
from tollbridge.core.plans import DEFAULT_PLAN, Plan
from tollbridge.core.words import plural
from tollbridge.web import deeds
from tollbridge.web.static import Static

FOLDER = Path(__file__).parent / "templates"


def environment(static: Static) -> Environment:
    """The templates, which know `asset("app.css")`, `icon("key")` and the filters below."""
    for path in FOLDER.glob("icons/*.svg"):
        icon(path.stem)
    # Load them all now: another version may replace the files while this one runs.
    texts = {path.relative_to(FOLDER).as_posix(): path.read_text("utf-8") for path in FOLDER.rglob("*.html")}
    made = Environment(
        loader=DictLoader(texts),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals |= {"asset": static.url, "icon": icon}
    made.filters |= {"usd": usd, "exact_usd": money.format_usd, "number": number}
    made.filters |= {"span": span, "short": short, "second": second}
    made.filters |= {"time": time, "date": day_text, "ago": ago, "browser": browser, "qr": qr}
    made.filters |= {"deed": deeds.words, "plural": plural, "plan_name": plan_name}
    return made


@cache
def icon(name: str) -> Markup:
    """A picture from `templates/icons`, hidden from screen readers."""
    return Markup((FOLDER / "icons" / f"{name}.svg").read_text("utf-8").strip())  # noqa: S704 - our own files


def usd(nano: int) -> str:
    """`$1,234.50`, `$0.000242501`: cents, and every further digit there is."""
    sign, size = ("-" if nano < 0 else ""), abs(nano)
    whole, fraction = divmod(size, 10**9)
    text = f"{fraction:09d}"
    return f"{sign}${whole:,}.{text[:2]}{text[2:].rstrip('0')}"


def number(value: int) -> str:
    return f"{value:,}"


def short(value: int) -> str:
    """`12,345`, `1.2M`, `34B`: for where there is little room."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if value >= size:
            return f"{value * 10 // size / 10:,.1f}".removesuffix(".0") + unit
    return number(value)


def plan_name(plan: Plan) -> str:
    """What a plan is called: its title, or words made from its name."""
    if plan.title:
        return plan.title
    return "Pay as you go" if plan.name == DEFAULT_PLAN else plan.name.replace("_", " ").replace("-", " ").capitalize()


def span(milliseconds: int) -> str:
    """`850 ms`, `12.3 s`, `4 min 10 s`."""
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    if milliseconds < 60_000:
        return f"{milliseconds // 100 / 10} s"
    return f"{milliseconds // 60_000} min {milliseconds % 60_000 // 1_000} s"


def time(milliseconds: int) -> str:
    """`2027-01-31 18:00 UTC`."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def second(milliseconds: int) -> str:
    """`2027-01-31 18:00:59`, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(milliseconds: int, now: int) -> str:
    """`3 minutes ago`."""
    seconds = max(0, now - milliseconds) // 1000
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def qr(text: str) -> str:
    """The text as a QR code, as an image URL: dark on white, in every theme."""
    import segno

    return str(segno.make(text, error="m", micro=False).svg_data_uri(scale=4, light="#fff"))


# What browsers call themselves, the most specific names first: all of them also claim to be others.
_BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (
    *(("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows")),
    *(("Mac OS", "macOS"), ("CrOS", "ChromeOS"), ("Linux", "Linux")),
)


def browser(agent: str) -> str:
    """`Chrome on Linux`, or the first words of what it calls itself."""
    name = next((shown for mark, shown in _BROWSERS if mark in agent), "")
    system = next((shown for mark, shown in _SYSTEMS if mark in agent), "")
    return " on ".join(part for part in (name, system) if part) or agent[:40] or "Unknown"
