"""A worker's ledger is opened at the first use, wherever there is room for it."""

from pathlib import Path

from llm_proxy.accounting.lease_table import _ledger_in


def test_a_folder_that_takes_no_ledger_is_no_outage(tmp_path: Path) -> None:
    """It is kept in memory, and moves once the folder takes it."""
    folder = tmp_path / "ledger"
    folder.write_text("in the way")
    ledger = _ledger_in(folder)
    assert ledger.is_in_memory
    folder.unlink()
    ledger.move_to_disk()
    assert not ledger.is_in_memory
    assert [path.suffix for path in folder.iterdir()] == [".ledger"]
    ledger.remove()
