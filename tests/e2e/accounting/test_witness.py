"""What the provider's own log says of the counters: the long run by hand (tools/soak/accounting.py), in small."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from soak.accounting import soak
from support.databases import Database


@pytest.mark.parametrize("ready_database", ["postgres"], indirect=True)
def test_counters_agree_with_what_the_provider_saw(ready_database: Database, tmp_path: Path) -> None:
    """Two servers of four workers, ten tokens, faults on both sides: equal in the calm, never over with two kill -9.

    Of as many calls as a quota has or more, exactly so many are admitted, whichever worker was killed.
    """
    engine = ready_database.engine()

    def read(statement: str) -> Sequence[Any]:
        with engine.connect() as connection:
            return connection.exec_driver_sql(statement).all()

    found = soak(tmp_path, ready_database.environ(), read, calls=1200, kills=2, parallel=60, starved=0.3)
    assert found["stormy"]["ended"]["429"] > 0
