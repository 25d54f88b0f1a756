"""`pytest --update-golden` writes the golden files of reports anew; look at the difference before it is committed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "reports"


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with a golden file, or writes it."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / name
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        assert file.exists(), f"{file} is missing: run pytest --update-golden and look at it"
        assert text == file.read_text(), f"{name} is not what it was: run pytest --update-golden and look at git diff"

    return compare
