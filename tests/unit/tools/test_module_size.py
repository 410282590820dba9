"""No module of the package is longer than a reader keeps in mind; those that only declare may be."""

from pathlib import Path

MOST_LINES = 400
DECLARATIONS = {  # modules that list things of one kind, and hardly any logic
    "errors.py": "a class for each refusal, with its status, type and code",
    "metrics.py": "every metric, with its help and labels",
    "providers/schema.py": "every key of the provider file, with its form and default",
}


def test_modules_have_at_most_400_lines(checkout: Path) -> None:
    """A longer module has two subjects: split it. One that is listed is longer."""
    top = checkout / "llm_proxy"
    lines = {path.relative_to(top).as_posix(): len(path.read_text().splitlines()) for path in top.rglob("*.py")}
    assert {name for name, number in lines.items() if number > MOST_LINES} == set(DECLARATIONS)
