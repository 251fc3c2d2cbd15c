"""The sweep over tiles: what it tries, what it prints, and that the table stays as it was."""

from collections import Counter

import pytest

from companion.bench import __main__ as command
from companion.bench import tile_sweep
from companion.bench.tile_sweep import Job, candidates, fastest_rows, jobs, shared_bytes
from companion.flash.triton import tuning
from companion.flash.triton.tuning import Tile


@pytest.mark.parametrize("generation", ["ampere", "hopper"])
def test_every_row_has_its_own_tile_among_several_that_fit(generation):
    todo = jobs(generation)
    assert len(set(todo)) == len(todo) <= 240  # compiled on 16 processors in under two minutes
    limit = tile_sweep.SHARED_LIMIT[generation]
    assert all(shared_bytes(job.pass_, job.width, job.tile) <= limit for job in todo)
    rows = {key[:2]: tile for key, tile in tuning.HALF.items() if key[2] == generation}
    assert {(job.pass_, job.width) for job in todo} == set(rows)
    assert all(Job(*row, tile) in todo for row, tile in rows.items())
    if generation == "hopper":
        assert min(Counter(job[:2] for job in todo).values()) >= 5


def test_shared_memory_by_hand():
    # Queries and ∂out stay in dq, keys and values in dkdv; of the others two stages pass by.
    assert shared_bytes("forward", 64, Tile(128, 32, 4, 2)) == 2 * 64 * (128 + 2 * 2 * 32)
    assert shared_bytes("dq", 64, Tile(128, 32, 4, 2)) == 2 * 64 * (2 * 128 + 2 * 2 * 32)
    assert shared_bytes("dkdv", 64, Tile(128, 32, 4, 2)) == 2 * 64 * (2 * 32 + 2 * 2 * 128)


def test_rows_name_the_best_and_today(capsys):
    best, today = Tile(64, 64, 4, 2), tuning.HALF["forward", 64, "hopper"]
    times = {Job("forward", 64, best): 1.0, Job("forward", 64, today): 1.5}
    times |= {Job("dq", 32, Tile(64, 32, 8, 1)): 4.0}
    assert list(fastest_rows(times, "hopper")) == [
        '("forward", 64, "hopper"): Tile(64, 64, 4, 2),  # 1.000 ms; Tile(128, 64, 8, 4): 1.500 ms',
        '("dq", 32, "hopper"): Tile(64, 32, 8, 1),  # 4.000 ms; Tile(64, 64, 4, 3): does not run',
    ]
    times[Job("forward", 64, today)] = 0.5
    row, *_ = fastest_rows(times, "hopper")
    assert row.endswith("Tile(128, 64, 8, 4),  # 0.500 ms")


def test_a_sweep_without_its_gpu(monkeypatch):
    """Compiling and timing are replaced; each sees its tile in the table, which stays."""
    launch = pytest.importorskip("companion.flash.triton.launch")
    before, seen = dict(tuning.HALF), []

    class Pool:
        def __init__(self, workers, mp_context):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        map = staticmethod(map)

    def call(job, **setting):
        settings = launch.settings_of(job.pass_, job.width, 2, "hopper")
        names = ("BLOCK_M", "BLOCK_N", "num_warps", "num_stages")
        seen.append(job.tile == tuple(settings[name] for name in names))
        if job.tile.stages == 5:
            raise MemoryError("out of registers")
        return lambda: None

    def milliseconds(run, **setting):
        run()
        return 1.0 + len(seen)

    monkeypatch.setattr(tile_sweep, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(tile_sweep, "_call", call)
    monkeypatch.setattr("triton.testing.do_bench", milliseconds)
    monkeypatch.setattr(tile_sweep.torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(tile_sweep.torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(tile_sweep.torch.cuda, "synchronize", lambda: None)
    header, *rows = tile_sweep.sweep()
    todo = jobs("hopper")
    fail = sum(job.tile.stages == 5 for job in todo)
    assert fail > 0
    assert f"'run': {len(todo) - fail}, 'MemoryError': {fail}" in header
    assert header.startswith("# a card")
    assert len(rows) == len({job[:2] for job in todo})
    assert all(seen)
    assert len(seen) == 2 * len(todo) - fail
    assert before == tuning.HALF
    last = todo[-1]
    today = before[last.pass_, last.width, "hopper"]
    assert launch.settings_of(last.pass_, last.width, 2, "hopper")["num_stages"] == today.stages


@pytest.mark.parametrize(
    "words", [["--sweep"], ["flash", "--sweep"], ["lora", "--device", "cuda", "--sweep"]]
)
def test_what_the_command_refuses(monkeypatch, capsys, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert command.main(words) == 2
    assert "--sweep goes with flash --device cuda" in capsys.readouterr().err


@pytest.mark.gpu
def test_one_tile_on_a_gpu():
    job = Job("dq", 64, candidates("dq", 64, "ampere")[0])
    generation = tuning.generation_of(tile_sweep.torch.cuda.get_device_capability())
    assert tile_sweep._obstacle(job, generation) == ""
    assert tile_sweep._milliseconds(job, generation) > 0
