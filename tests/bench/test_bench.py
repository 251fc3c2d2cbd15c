"""The benchmark: equality before time, fair turns, records, exit status."""

import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from companion.bench import Workload
from companion.bench import __main__ as command
from companion.bench.records import read_records, write_records
from companion.bench.table import cells, terminal_table
from companion.measure import timing
from companion.measure.machine import machine, versions
from companion.measure.timing import compare, limited_threads
from tests.bench.example_record import RECORD


class Clock:
    """A clock that only work moves: each call of ``work`` takes the seconds it is given."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        self.log: list[str] = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)

    def work(self, name: str, seconds: float):
        def call() -> str:
            self.now += seconds
            self.log.append(name)
            return name

        return call


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def workload(clock: Clock, our_s: float, their_s: float, **options) -> Workload:
    return Workload(
        **{
            "name": "work n=3",
            "peer": "peer",
            "ours": clock.work("ours", our_s),
            "theirs": clock.work("theirs", their_s),
            "equal": lambda a, b: (a, b) == ("ours", "theirs"),
            "bar": 2.0,
        }
        | options
    )


def test_times_and_ratio_by_hand(clock):
    result = compare(workload(clock, 0.25, 1.0))
    assert result.ours_s == pytest.approx([0.25] * 7)
    assert result.peer_s == pytest.approx([1.0] * 7)
    assert result.ratio == pytest.approx(4.0)


def test_the_two_take_turns_and_turns_at_beginning(clock):
    compare(workload(clock, 1.0, 1.0))
    # One call each for equality, one each to see how long a call takes, then the rounds.
    assert clock.log[:4] == ["ours", "theirs"] * 2
    assert clock.log[4:10] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert len(clock.log) == 4 + 2 * 7


def test_short_calls_are_repeated_and_long_ones_are_not(clock):
    result = compare(workload(clock, 0.001, 1.0))
    assert clock.log.count("ours") == 2 + 7 * 50
    assert clock.log.count("theirs") == 2 + 7
    assert result.ours_s == pytest.approx([0.001] * 7)


def test_the_pause_comes_before_the_clock_is_read(clock, monkeypatch):
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(timing.time, "sleep", sleep)
    result = compare(workload(clock, 0.25, 1.0))
    assert pauses == [timing.SETTLE_S] * 2 * 8
    assert result.ours_s == pytest.approx([0.25] * 7)


def test_calls_too_short_for_the_clock_are_repeated_a_finite_number_of_times(clock):
    compare(workload(clock, 0.0, 1.0, ours=lambda: "ours", theirs=clock.work("theirs", 1.0)))
    assert clock.log.count("theirs") == 2 + 7


def test_an_overhead_is_what_both_take_beyond_the_baseline(clock):
    """The baseline doubles from round to round, and goes out of each round's times."""
    base_s = [0.0]
    work = clock.work("baseline", 0.0)

    def baseline() -> str:
        clock.now += base_s[0]
        return work()

    def beyond(name: str, seconds: float):
        return lambda: baseline() and clock.work(name, seconds)()

    sides = {"ours": beyond("ours", 2.0), "theirs": beyond("theirs", 5.0)}
    base_s[0] = 10.0
    result = compare(workload(clock, 0, 0, **sides, baseline=baseline))
    assert result.ours_s == pytest.approx([2.0] * 21)
    assert result.peer_s == pytest.approx([5.0] * 21)
    assert result.baseline_s == pytest.approx([10.0] * 21)
    assert result.ratio == pytest.approx(2.5)


def test_a_baseline_is_subtracted_in_its_own_round(clock):
    """A machine that slows down from round to round: the overheads stay what they are."""
    rounds = [0]

    def baseline() -> str:
        clock.now += 1.0 + rounds[0] / 3
        rounds[0] += 1
        return "baseline"

    def beyond(name: str, seconds: float):
        def call() -> str:
            clock.now += 1.0 + rounds[0] / 3 + seconds
            return name

        return call

    work = workload(
        clock, 0, 0, ours=beyond("ours", 2.0), theirs=beyond("theirs", 5.0), baseline=baseline
    )
    result = compare(work)
    # Half a round's drift either way; one median of all baselines would be seven rounds off.
    assert all(abs(seconds - 2.0) < 0.34 for seconds in result.ours_s)
    assert all(abs(seconds - 5.0) < 0.34 for seconds in result.peer_s)
    assert max(result.baseline_s) - min(result.baseline_s) > 6


def test_the_baseline_runs_between_the_two(clock):
    compare(workload(clock, 1.0, 1.0, baseline=clock.work("baseline", 0.5)))
    turns = ["ours", "baseline", "theirs"]
    assert clock.log[:5] == ["ours", "theirs", *turns]
    assert clock.log[5:14] == [*turns, *reversed(turns), *turns]
    assert len(clock.log) == 5 + 3 * 21


def test_an_overhead_too_small_to_measure_has_no_finite_ratio(clock):
    slow_baseline = clock.work("baseline", 3.0)
    result = compare(workload(clock, 2.0, 5.0, baseline=slow_baseline))
    assert result.ratio == float("inf")


def test_unequal_results_are_not_timed(clock):
    result = compare(workload(clock, 1.0, 1.0, equal=lambda a, b: False))
    assert not result.equal
    assert result.ratio is None
    assert clock.log == ["ours", "theirs"]


def test_one_slow_and_one_fast_round_do_not_move_the_median(clock):
    def seconds():
        yield from (1.0, 1.0, 1.0, 50.0, 0.02)
        while True:
            yield 1.0

    durations = seconds()

    def disturbed() -> str:
        clock.now += next(durations)
        return "ours"

    result = compare(workload(clock, 0, 1.0, ours=disturbed))
    assert max(result.ours_s) == 50.0
    assert min(result.ours_s) == pytest.approx(0.02)
    assert result.ratio == pytest.approx(1.0)


def test_collector_rests_while_the_clock_runs(clock):
    import gc

    running = []

    def ours() -> str:
        clock.now += 1.0
        running.append(gc.isenabled())
        return "ours"

    compare(workload(clock, 1.0, 1.0, ours=ours))
    assert not any(running[-7:])
    assert gc.isenabled()


def test_threads_are_limited_and_put_back():
    before, pools = torch.get_num_threads(), threadpool_info()
    with limited_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with threadpool_limits(2), limited_threads(1):
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    assert torch.get_num_threads() == before
    assert threadpool_info() == pools


@pytest.mark.gpu
def test_the_clock_waits_for_the_gpu():
    a = torch.randn(4096, 4096, device="cuda")
    work = Workload("matmul", "itself", lambda: a @ a @ a, lambda: a @ a, lambda x, y: True)
    result = compare(work, device="cuda")
    # Launching costs the same twice; only a clock that waits sees two products take longer.
    assert result.ratio < 0.8


@pytest.fixture
def chapter(monkeypatch, clock):
    """A made-up chapter ``fake``, whose workloads the test chooses."""
    module = types.ModuleType("companion.bench.fake")
    monkeypatch.setitem(sys.modules, "companion.bench.fake", module)
    monkeypatch.setattr(command, "slugs", lambda: ["fake"])

    def with_workloads(*workloads: Workload) -> None:
        module.workloads = lambda device: list(workloads)

    return with_workloads


@pytest.mark.parametrize(
    ("ours", "options", "status", "word"),
    [
        (0.25, {}, 0, "passed"),
        (0.5, {}, 0, "passed"),  # the bar is 2, and exactly met
        (0.75, {}, 1, "missed"),
        (0.75, {"bar": None}, 0, "reported"),
        (0.25, {"equal": lambda a, b: False}, 1, "results differ"),
        (0.25, {"equal": lambda a, b: False, "bar": None}, 1, "results differ"),
    ],
)
def test_exit_status_and_table(chapter, clock, capsys, ours, options, status, word):
    chapter(workload(clock, ours, 1.0, **options))
    assert command.main(["fake"]) == status
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("work n=3  peer")
    assert line.endswith(word)


@pytest.mark.parametrize(
    ("ours", "options", "status", "words"),
    [
        (1.0, {"ceiling": 1.1}, 0, "≤ 1.1×  passed"),
        (0.5, {"ceiling": 2.0}, 0, "≤ 2×  passed"),  # exactly met
        (0.5, {"ceiling": 1.1}, 1, "≤ 1.1×  missed"),  # twice as fast, where none can be
        (6.0, {"limit_s": 6.0}, 0, "≤ 6 s  passed"),
        (6.1, {"limit_s": 6.0}, 1, "≤ 6 s  missed"),
        (0.5, {"bar": 2.0, "limit_s": 0.25}, 1, "≥ 2×, ≤ 0.25 s  missed"),
        (0.5, {"bar": 2.5, "limit_s": 0.75}, 1, "≥ 2.5×, ≤ 0.75 s  missed"),
    ],
)
def test_ceilings_and_time_limits(chapter, clock, capsys, ours, options, status, words):
    chapter(workload(clock, ours, 1.0, **{"bar": None} | options))
    assert command.main(["fake"]) == status
    assert capsys.readouterr().out.splitlines()[-1].endswith(words)


def test_what_a_workload_needs_stands_until_it_is_measured(chapter, clock):
    log = []

    def one_at_a_time(device):
        for name in ("first", "second"):
            log.append(f"{name} up")
            yield workload(clock, 0.5, 1.0, name=name, ours=lambda: log.append("ours") or "ours")
            log.append(f"{name} down")

    chapter()
    sys.modules["companion.bench.fake"].workloads = one_at_a_time
    # Time stands still while ours runs: the ratio is infinite, and reported.
    assert command.main(["fake"]) == 0
    assert [word for word in log if word != "ours"] == [
        f"{name} {state}" for name in ("first", "second") for state in ("up", "down")
    ]
    assert log[1] == log[-2] == "ours"


def test_records_hold_every_promised_field(chapter, clock, tmp_path):
    chapter(workload(clock, 0.5, 1.0), workload(clock, 2.0, 1.0, name="slow"))
    file = tmp_path / "new" / "records.json"
    assert command.main(["--json", str(file)]) == 1
    rows = json.loads(file.read_text())
    promised = "slug, workload, peer, ours_s, peer_s, ratio, bar, passed, equal, machine, versions"
    assert set(promised.split(", ")) <= rows[0].keys()
    assert [row["passed"] for row in rows] == [True, False]
    first = rows[0]
    assert (first["slug"], first["workload"], first["device"]) == ("fake", "work n=3", "cpu")
    assert first["ratio"] == pytest.approx(first["peer_s"] / first["ours_s"])
    assert first["ours_range_s"][0] <= first["ours_s"] <= first["ours_range_s"][1]
    assert first["rounds"] >= 5
    assert first["threads"] == 2
    assert first["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_device_reaches_the_workloads_and_the_clock(chapter, clock, monkeypatch, device):
    from companion.measure.timing import Comparison

    seen = []
    chapter()
    module = sys.modules["companion.bench.fake"]
    module.workloads = lambda device: seen.append(device) or [workload(clock, 0.5, 1.0)]
    monkeypatch.setattr(
        timing, "compare", lambda _, device: seen.append(device) or Comparison(equal=False)
    )
    monkeypatch.setattr(command, "machine", lambda device: seen.append(device) or "A machine")
    command._measure("fake", device)
    assert seen == [device] * 3


def test_record_keeps_medians(clock, chapter, monkeypatch):
    rounds = timing.Comparison(True, ours_s=(9.0, 1.0, 2.0), peer_s=(8.0, 90.0, 7.0))
    threads = []
    monkeypatch.setattr(command, "THREADS", 3)
    monkeypatch.setattr(
        timing, "compare", lambda *_, **__: threads.append(torch.get_num_threads()) or rounds
    )
    chapter(workload(clock, 0.5, 1.0))
    (record,) = command._measure("fake", "cpu")
    assert threads == [3] == [record.threads]
    assert (record.ours_s, record.peer_s, record.ratio) == (2.0, 8.0, 4.0)
    assert (record.ours_range_s, record.peer_range_s) == ((1.0, 9.0), (7.0, 90.0))
    assert record.baseline_s is None


def test_record_keeps_the_median_of_the_baseline(clock, chapter, monkeypatch):
    rounds = timing.Comparison(True, ours_s=(2.0,), peer_s=(8.0,), baseline_s=(7.0, 1.0, 3.0))
    monkeypatch.setattr(timing, "compare", lambda *_, **__: rounds)
    chapter(workload(clock, 0.5, 1.0, baseline=lambda: None))
    (record,) = command._measure("fake", "cpu")
    assert (record.ours_s, record.peer_s, record.baseline_s) == (2.0, 8.0, 3.0)


def test_unknown_slug_names_the_known_ones(capsys):
    assert command.main(["wassersteen"]) == 2
    assert "expected slugs from: " in capsys.readouterr().err


def test_every_module_with_a_package_of_its_name_is_a_slug():
    bench = Path(command.__file__).parent
    framework = {"records", "table", "page", "tile_sweep"}
    assert not framework & set(command.slugs())
    chapters = {file.stem for file in bench.glob("*.py")} - framework - {"__init__", "__main__"}
    assert set(command.slugs()) == chapters


def test_missing_peer_is_one_clear_line(monkeypatch, chapter, capsys):
    def workloads(device):
        import a_peer_that_is_not_installed  # noqa: F401

    chapter()
    monkeypatch.setattr(sys.modules["companion.bench.fake"], "workloads", workloads)
    assert command.main(["fake"]) == 2
    error = capsys.readouterr().err
    assert "fake: No module named 'a_peer_that_is_not_installed'" in error
    assert "make lab" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none(chapter, capsys):
    assert command.main(["fake", "--device", "cuda"]) == 2
    assert "expected a CUDA device" in capsys.readouterr().err


def test_machine_and_versions_are_those_of_this_process():
    import psutil

    assert f"{psutil.cpu_count()} cores" in machine("cpu")
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"] == torch.__version__
    assert "jupyterlab" not in found  # a dependency, but not imported here


def test_cells_by_hand():
    assert cells(RECORD) == (
        "work n=3",
        "peer",
        "1.23 ms (1.2–13.1)",
        "10 ms (9.95–22.2)",
        "8.10×",
        "≥ 4×",
        "passed",
    )
    seconds = replace(RECORD, ours_s=12.34, ours_range_s=(12.0, 123.4), bar=None)
    assert cells(seconds)[2] == "12.3 s (12–123)"
    assert cells(seconds)[-2:] == ("–", "reported")
    overhead = replace(RECORD, baseline_s=0.0456)
    assert cells(overhead) == ("work n=3 (overhead over 45.6 ms)", *cells(RECORD)[1:])
    rates = replace(RECORD, work=5e9, work_unit="B")
    assert cells(rates)[2:4] == ("1.23 ms (1.2–13.1), 4.05 TB/s", "10 ms (9.95–22.2), 500 GB/s")
    tiny = replace(RECORD, ours_s=2e-7, ours_range_s=(1e-7, 3e-7))
    assert cells(tiny)[2] == "0.2 µs (0.1–0.3)"


def test_terminal_table_is_aligned():
    head, rule, first, second = terminal_table(
        [RECORD, replace(RECORD, workload="a longer name")]
    ).splitlines()
    assert head.index("peer") == first.index("peer") == second.index("peer")
    assert rule.startswith("─" * len("a longer name"))


def test_records_survive_a_file(tmp_path):
    write_records(tmp_path / "r.json", [RECORD])
    (back,) = read_records([tmp_path / "r.json"])
    assert back.ratio == RECORD.ratio
    assert back.versions == RECORD.versions


def test_records_from_before_there_were_other_bars_are_read(tmp_path):
    write_records(tmp_path / "r.json", [RECORD])
    (row,) = json.loads((tmp_path / "r.json").read_text())
    for later in ("baseline_s", "ceiling", "limit_s", "work", "work_unit"):
        del row[later]
    (tmp_path / "old.json").write_text(json.dumps([row]))
    assert read_records([tmp_path / "old.json"]) == read_records([tmp_path / "r.json"])


def test_another_file_is_named(tmp_path):
    (tmp_path / "r.json").write_text('[{"slug": "x"}]')
    with pytest.raises(ValueError, match=r"expected a list of bench records in .*r\.json"):
        read_records([tmp_path / "r.json"])
