"""Work items: any members on any parts, killed and resumed, end as the same bytes."""

import errno
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.inference.ensemble import generate, plan
from forecast.inference.writer import ForecastWriter
from tests.inference.fakes import LEAD, STARTS, STEPS, Fake, count_lines, fingerprint, make

ROOT = Path(__file__).parents[2]


def command(out: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.inference.fakes", str(out), *map(str, arguments)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """7 members from 2 starts, made in one go."""
    return make(Fake(), tmp_path_factory.mktemp("undisturbed") / "f.zarr", 7)


def test_every_field_is_where_it_belongs(undisturbed) -> None:
    store, system = Forecasts.open(undisturbed), Fake()
    assert store.finished.shape == (2, STEPS + 1) and store.finished.all()
    for s, start in enumerate(STARTS):
        for step in range(STEPS + 1):
            expected = np.stack([system.field(start, member, step) for member in range(7)])
            for v, name in enumerate(system.variables):
                assert np.array_equal(store.read(name, s, step), expected[:, v])
    assert store.leads[-1] == LEAD and store.attrs == {"system": "fake", "seed": 1}


def test_single_member(tmp_path, undisturbed) -> None:
    store = Forecasts.open(make(Fake(), tmp_path / "f.zarr", 1))
    assert np.array_equal(store.read("2t", 1, 4), Forecasts.open(undisturbed).read("2t", 1, 4)[:1])


@pytest.mark.parametrize("parts", [2, 4, 9])
def test_parts_in_any_order_make_the_same_store(tmp_path, undisturbed, parts, monkeypatch) -> None:
    """7 members on 4 parts; 9 parts for 6 work items; each keeps to its share, as without locks."""
    monkeypatch.setattr("forecast.inference.share.fcntl.lockf", no_locks)
    for i in reversed(range(parts)):
        make(Fake(), tmp_path / "f.zarr", 7, (i, parts))
    assert fingerprint(tmp_path / "f.zarr") == fingerprint(undisturbed)
    assert Forecasts.open(tmp_path / "f.zarr").finished.all()


def no_locks(*_) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_killed_and_resumed_ends_as_the_same_bytes(tmp_path, undisturbed) -> None:
    """Killed thrice in the middle of the work; what was finished is not computed again."""
    out, counts = tmp_path / "f.zarr", [0]
    for _ in range(3):
        process = subprocess.Popen(command(out, "--delay", 0.02), cwd=ROOT)
        deadline = time.monotonic() + 30
        while count_lines(out) < counts[-1] + 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        counts.append(count_lines(out))
    assert 15 <= counts[-1] < 2 * 3 * (STEPS + 1) and counts == sorted(counts)
    system = Fake()
    make(system, out, 7)
    assert len(system.asked) < 6
    assert fingerprint(out) == fingerprint(undisturbed)
    assert ledger(out) == ledger(undisturbed)


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_at_random_moments_leave_no_trace(tmp_path, undisturbed, kills) -> None:
    """Three processes at a time; every store ends as the bytes of an undisturbed one, and nothing was done twice."""
    subprocess.run(command(tmp_path, "--kills", kills), cwd=ROOT, check=True)
    stores = sorted(tmp_path.glob("*.zarr"))
    assert stores and {fingerprint(store) for store in stores} == {fingerprint(undisturbed)}
    for store in stores:
        assert ledger(store) == ledger(undisturbed)


def ledger(store: Path) -> list[str]:
    return sorted(line for path in store.glob("finished-*.jsonl") for line in path.read_text().splitlines())


def test_resuming_with_other_parts_and_a_torn_ledger(tmp_path, undisturbed, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("forecast.inference.share.fcntl.lockf", no_locks)
        out = make(Fake(), tmp_path / "f.zarr", 7, (1, 2))
        path = out / "finished-1-of-2.jsonl"
        path.write_bytes(path.read_bytes()[:-4])
        (out / ".writing-1-of-2").write_bytes(b"half a shard")
        system = Fake()
        make(system, out, 7, (1, 2))
    assert len(system.asked) == 1, "only the item whose line was torn is computed again"
    assert path.read_text().endswith("}\n")
    make(Fake(), out, 7, (2, 3))
    assert fingerprint(out) == fingerprint(undisturbed) and Forecasts.open(out).finished.all()


def test_nothing_left_to_do_computes_nothing(undisturbed) -> None:
    system = Fake()
    make(system, undisturbed, 7)
    assert system.asked == []


def test_item_is_computed_only_to_its_last_missing_step(tmp_path) -> None:
    out = make(Fake(), tmp_path / "f.zarr", 3)
    path = out / "finished-0-of-1.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"step": 2' not in line))
    system = Fake()
    make(system, out, 3)
    assert system.asked == [([0, 1, 2], 2), ([0, 1, 2], 2)]


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(members=8), "made with members 7 instead of 8"),
        (dict(lead=np.timedelta64(48, "h")), "made with leads .* instead of 0d..2d"),
        (dict(starts=STARTS[:1]), r"made with starts 2001-03-01T00,2001-03-03T12 instead of 2001-03-01T00"),
        (dict(member_batch=4), "made with member_batch 3 instead of 4"),
        (dict(system=Fake(seed=2)), "made with seed 1 instead of 2"),
    ],
)
def test_store_of_other_settings_is_refused(undisturbed, change, words) -> None:
    before = fingerprint(undisturbed), ledger(undisturbed)
    given = dict(system=Fake(), starts=STARTS, members=7, lead=LEAD, out=undisturbed, member_batch=3) | change
    with pytest.raises(ForecastError, match=words):
        generate(**given, settings={"seed": given["system"].seed})
    assert (fingerprint(undisturbed), ledger(undisturbed)) == before


def test_other_variables_are_refused(undisturbed) -> None:
    system = Fake()
    system.variables = ("z_500", "2t")
    with pytest.raises(ForecastError, match="made with variables"):
        make(system, undisturbed, 7)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(lead=np.timedelta64(7, "h")), "lead 7h is no multiple of the 6h step of fake"),
        (dict(members=0), "at least one start and one member"),
        (dict(starts=STARTS[:0]), "at least one start and one member"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(tmp_path, change, words) -> None:
    given = dict(system=Fake(), starts=STARTS, members=7, lead=LEAD, out=tmp_path / "f.zarr") | change
    with pytest.raises(ForecastError, match=words):
        generate(**given)
    assert not list(tmp_path.iterdir())


def test_same_part_twice_at_a_time_is_refused(tmp_path) -> None:
    with (
        ForecastWriter(tmp_path / "f.zarr", plan(Fake(), STARTS, 7, LEAD, 3, {"seed": 1})),
        pytest.raises(ForecastError, match="written by another process with the same --part"),
    ):
        make(Fake(), tmp_path / "f.zarr", 7)


def test_memory_does_not_grow_with_steps_or_members(tmp_path) -> None:
    """Peak resident memory of one process that makes 3 members to 2 steps, then 3 to 60, then 33 to 2.

    A step of 3 members of 3 x 8,192 values takes 0.3 MB: 60 steps at once would be 17 MB more, 33 members with all
    their steps 10 MB. The margin is what allocators vary by.
    """
    out = subprocess.run(command(tmp_path / "f", "--memory"), check=True, capture_output=True, text=True, cwd=ROOT)
    small, long, large = (float(line) / 1e6 for line in out.stdout.split())
    assert long < small + 6 and large < long + 6, f"{small:.0f}, {long:.0f}, {large:.0f} MB"


def test_full_disk_is_told_and_keeps_what_is_finished(tmp_path, undisturbed) -> None:
    """No file may pass 9,000 bytes: the store and some shards fit, the ledger does, a shard of 3 members does not."""
    out = tmp_path / "f.zarr"
    system = Fake()
    system.field = lambda start, member, step: Fake().field(start, member, step) * (step > 3)  # zeros pack well
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with ForecastWriter(out, plan(system, STARTS, 3, LEAD, 3, {"seed": 1})):
        pass
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        with pytest.raises(ForecastError, match="cannot write: File too large; what is finished stays, run again"):
            make(system, out, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert Forecasts.open(out).finished.sum() == 4
    system.asked.clear()
    make(system, out, 3)
    assert Forecasts.open(out).finished.all()


def test_vanished_folder_is_told(tmp_path) -> None:
    class Loses(Fake):
        def field(self, start, member, step):
            if (start, member, step) == (STARTS[1], 0, 3):
                (tmp_path / "f.zarr").rename(tmp_path / "elsewhere")
            return super().field(start, member, step)

    with pytest.raises(ForecastError, match="No such file or directory, the folder is gone"):
        make(Loses(), tmp_path / "f.zarr", 3)
    assert Forecasts.open(tmp_path / "elsewhere").finished[0].all()


def test_unwritable_place_is_told(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ForecastError, match="f.zarr: the store cannot be created"):
        make(Fake(), tmp_path / "file" / "f.zarr", 3)


def test_bug_in_the_system_is_raised_as_it_is_and_keeps_what_is_finished(tmp_path) -> None:
    class Breaks(Fake):
        def field(self, start, member, step):
            if step == 4:
                raise ZeroDivisionError
            return super().field(start, member, step)

    with pytest.raises(ZeroDivisionError):
        make(Breaks(), tmp_path / "f.zarr", 3)
    assert Forecasts.open(tmp_path / "f.zarr").finished.sum() == 4
