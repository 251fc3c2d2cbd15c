"""A record that was made up."""

from companion.bench.records import Record

__all__ = ["RECORD"]

RECORD = Record(
    slug="fake",
    workload="work n=3",
    peer="peer",
    device="cpu",
    ours_s=0.001234,
    peer_s=0.0100,
    ours_range_s=(0.0012, 0.0131),
    peer_range_s=(0.00995, 0.0222),
    ratio=8.1037,
    bar=4.0,
    passed=True,
    equal=True,
    rounds=7,
    threads=2,
    machine="A processor, 2 cores",
    versions={"python": "3.11.7"},
    date="2026-01-02",
)
