"""The guard over a machine's wall clock."""

from llm_proxy.db.clock import MAX_DRIFT_S, WallClockGuard


def test_small_corrections_add_up_and_a_large_one_stays() -> None:
    """Half a minute each turn is accepted; two minutes are reported until they are taken back."""
    wall, steady = [1000.0], [0.0]
    guard = WallClockGuard(lambda: wall[0], lambda: steady[0])
    for _ in range(5):
        wall[0] += 10 + MAX_DRIFT_S / 2
        steady[0] += 10
        assert guard.drift_s() == 0
    wall[0] -= 120
    assert guard.drift_s() == -120
    assert guard.drift_s() == -120
    wall[0] += 120
    assert guard.drift_s() == 0
