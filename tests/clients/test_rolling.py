"""Do rolling restarts behind a real proxy go unnoticed? The short form of rolling.py."""

import pytest

import rolling


@pytest.mark.skipif(not rolling.find_proxy(), reason="haproxy is not installed: apt-get install haproxy")
def test_rolling_restarts_fail_no_request(tmp_path):
    counts, failures, codes = rolling.roll(4, tmp_path)
    assert not failures and not codes, (failures[:5], codes)
    asked = ("HTTP small", "HTTP large", "HTTP, sent slowly", "gRPC small", "gRPC large", "stream messages small")
    assert all(counts[name] > 0 for name in asked), counts
    assert counts["streams ended by a replica"] > 0, "nothing was restarted under the streams"
