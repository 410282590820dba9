"""Writes what is derived from values.yaml: the schema, the templates' defaults and the README's tables."""

from pathlib import Path

import yaml

from chart import comments, defaults, readme, schema

CHART = Path(__file__).resolve().parents[2] / "charts" / "llm-proxy"


def derived() -> dict[Path, str]:
    """File → the content that it has to have."""
    source = (CHART / "values.yaml").read_text()
    values, described = yaml.safe_load(source), comments.read(source)
    tables = readme.with_tables((CHART / "README.md").read_text(), described, values)
    return {
        CHART / "values.schema.json": schema.text(values, {row.path: row.text for row in described}),
        CHART / "templates" / "_defaults.tpl": defaults.template(values),
        CHART / "README.md": tables,
    }


def main() -> None:
    """Write them all."""
    for path, text in derived().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
