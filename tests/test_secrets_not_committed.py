"""No key and no address of a package registry: in nothing that is committed, tests and documents included.

A made-up secret in a test says so: it matches `MADE_UP`, or its digest is in `KNOWN`.
"""

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.syntax import ROOT

SHAPES = {
    "a key of Tollbridge": r"\btb_live_[0-9A-Za-z]{38}\b",
    "OpenAI and look-alikes": r"\bsk-[A-Za-z0-9_-]{20,}",
    "Stripe": r"\b[sr]k_live_[0-9A-Za-z]{16,}",
    "a webhook's secret": r"\bwhsec_[0-9A-Za-z+/=]{16,}",
    "AWS": r"\bA(KIA|SIA)[0-9A-Z]{16}\b",
    "Google": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "Groq": r"\bgsk_[0-9A-Za-z]{32,}",
    "xAI": r"\bxai-[0-9A-Za-z]{32,}",
    "GitHub": r"\b(gh[pousr]_[0-9A-Za-z]{36}|github_pat_\w{22,})",
    "npm": r"\bnpm_[0-9A-Za-z]{36}\b",
    "PyPI": r"\bpypi-AgE[\w-]{40,}",
    "Slack": r"\bxox[abprs]-[\w-]{16,}",
    "a JSON web token": r"\beyJ[\w-]{16,}\.eyJ[\w-]{16,}\.[\w-]{16,}",
    "a private key": r"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16,}",
    "a password in a URL": r"\b[a-z][a-z0-9+]*://[^\s/:@\"'{}<>$]+:[^\s/:@\"'{}<>$*…]{6,}@",
}
MADE_UP = re.compile(r"test|example|fake|dummy|canary|made.?up|wrong|secret|password|0123|abc|(.)\1{5,}", re.IGNORECASE)
# Made up, but so that they pass for real: by their SHA-256, so that they do not stand here too.
KNOWN = {
    "a709aba97ece6b88f51ed0a5b556fd74fb425fc2f5c98932c96b11615a5cec0d": "bench: LiteLLM refuses what looks made up",
}
# Put together here, so that this file does not name them either.
REGISTRIES = [
    ".".join(words)
    for words in (
        *(("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("crates", "io")),
        *(("deb", "debian", "org"), ("proxy", "golang", "org"), ("yarnpkg", "com")),
    )
]
LARGEST = 2_000_000


def committed() -> list[Path]:
    """What is or would be committed. Outside a repository (a source archive): every file but caches."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    skipped = {".venv", "node_modules", "__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", "dist"}
    return [file for file in ROOT.rglob("*") if file.is_file() and not skipped & set(file.relative_to(ROOT).parts)]


def secrets(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and kinds of what looks like a real secret."""
    for kind, shape in SHAPES.items():
        for found in re.finditer(shape, text):
            known = hashlib.sha256(found[0].encode()).hexdigest() in KNOWN
            if not known and not MADE_UP.search(found[0]):
                yield text.count("\n", 0, found.start()) + 1, kind


def test_nothing_committed_holds_a_secret() -> None:
    files = committed()
    assert len(files) > 20
    found = [
        f"{file.relative_to(ROOT)}:{line}: {kind}"
        for file in files
        for line, kind in secrets(file.read_text(errors="replace"))
    ]
    assert found == []


def test_nothing_committed_names_a_package_registry() -> None:
    named = re.compile("|".join(map(re.escape, REGISTRIES)))
    assert [str(file.relative_to(ROOT)) for file in committed() if named.search(file.read_text(errors="replace"))] == []


def test_nothing_committed_is_large() -> None:
    assert [str(file.relative_to(ROOT)) for file in committed() if file.stat().st_size > LARGEST] == []


@pytest.mark.parametrize(
    "parts",
    [
        ("tb_live_", "9Qm2XvT7bKc4LwZ8sNd1RfHj6GpYu3VaEoi5Mt"),
        ("sk-proj-", "9Qm2XvT7bKc4LwZ8sNd1RfHj"),
        ("whsec_", "9Qm2XvT7bKc4LwZ8sNd1RfHj"),
        ("AKIA", "9QM2XVT7BKC4LWZ8"),
        ("-----BEGIN PRIVATE KEY-----", "\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC"),
        ("postgresql://tollbridge:", "9Qm2XvT7bKc4@db/tollbridge"),
    ],
)
def test_a_secret_is_found(parts: tuple[str, str]) -> None:
    assert list(secrets("x = '" + "".join(parts) + "'"))


def test_made_up_secrets_are_not_mistaken_for_real_ones() -> None:
    text = "sk-test-9Qm2XvT7bKc4LwZ8sNd1 sk-xxxxxxxxxxxxxxxxxxxxxxxx postgresql://postgres@127.0.0.1:5432/test"
    assert not list(secrets(text))
