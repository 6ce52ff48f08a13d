"""Golden scenarios: every file in cases/ is a script whose results are written under its commands.

`REWRITE_CASES=1 pytest tests/core/test_core_cases.py` writes what the core answers today; look at the difference before
it is committed. The first line may be `settings {...}`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from core_script import Script

CASES = sorted((Path(__file__).parent / "cases").glob("*.txt"))
INDENT = "    "


def replay(text: str) -> str:
    """The same file with the results that the core gives."""
    lines = [line.rstrip() for line in text.splitlines()]
    settings = "{}"
    if lines and lines[0].startswith("settings "):
        settings = lines[0].removeprefix("settings ")
    script = Script(settings)
    out: list[str] = []
    for line in lines:
        if line.startswith(INDENT):
            continue
        out.append(line)
        if line and not line.startswith(("# ", "settings ")):
            out.append(INDENT + script.run(line))
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    text = case.read_text()
    now = replay(text)
    if os.environ.get("REWRITE_CASES"):
        case.write_text(now)
        text = now
    assert now.splitlines() == text.splitlines()
    assert "!!" not in now, "an invariant is broken"


def test_there_are_cases() -> None:
    assert len(CASES) >= 8
