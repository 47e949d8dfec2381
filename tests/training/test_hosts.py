"""Two hosts, each a network namespace with an address of its own: training meets a link that fails."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forecast.core.config import Config
from tests import tiny
from tests.training import launched, ranks

HOSTS = (f"fc{os.getpid()}a", f"fc{os.getpid()}b")
ADDRESSES = ("10.77.31.1", "10.77.31.2")


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def forget() -> None:
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    """Two namespaces with a `cable` between them."""
    try:
        ip("link", "add", HOSTS[0], "type", "veth", "peer", "name", HOSTS[1])
        for host, address in zip(HOSTS, ADDRESSES, strict=True):
            ip("netns", "add", host)
            ip("link", "set", host, "netns", host)
            for words in (["link", "set", host, "name", "cable"], ["addr", "add", f"{address}/24", "dev", "cable"],
                          ["link", "set", "lo", "up"], ["link", "set", "cable", "up"]):  # fmt: skip
                ip("-n", host, *words)
    except OSError as error:
        forget()
        pytest.skip(f"network namespaces are not allowed here: {error}")
    yield
    forget()


def long(root: Path, archive: Path) -> Config:
    return tiny.config(root, archive, stages=[{"updates": 60, "lr": 1e-3}], checkpoint_every=10, validate_every=30)


@pytest.fixture(scope="module")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = long(tmp_path_factory.mktemp("undisturbed"), archive)
    assert ranks.codes(ranks.start(ranks.context(), config, 2)) == [0, 0]
    return Path(config.root) / "training"


@contextlib.contextmanager
def training(config: Config, patience: int, restarts: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A torchrun on each host; ended in any case."""
    options = [f"--nnodes={len(HOSTS)}", "--nproc-per-node=1", f"--max-restarts={restarts}", "--rdzv-backend=c10d",
               f"--rdzv-endpoint={ADDRESSES[0]}:29417", "--rdzv-id=test"]  # fmt: skip
    agents = [
        launched.torchrun(config, *options, f"--local-addr={address}", f"--rdzv-conf=is_host={int(host == HOSTS[0])}",
                          within=("ip", "netns", "exec", host), log=f"{host}.log",
                          resume=True, GLOO_SOCKET_IFNAME="cable", FORECAST_COLLECTIVE_SECONDS=str(patience))
        for host, address in zip(HOSTS, ADDRESSES, strict=True)
    ]  # fmt: skip
    try:
        yield agents
    finally:
        for agent in agents:
            agent.kill()


def cut(seconds: float) -> None:
    """Take the second host off the net, then bring it back."""
    ip("-n", HOSTS[1], "link", "set", "cable", "down")
    time.sleep(seconds)
    ip("-n", HOSTS[1], "link", "set", "cable", "up")


def ending(folder: Path) -> tuple[list[bytes], list[bytes]]:
    curve = [line.split(b'"lr"')[0] for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return curve, [(folder / "latest" / f"{name}.safetensors").read_bytes() for name in ("model", "ema")]


@pytest.mark.slow
@pytest.mark.parametrize("seconds, patience, restarts", [(6, 60, 0), (25, 10, 3)])
def test_a_host_is_cut_off_and_brought_back(
    hosts: None, archive: Path, tmp_path: Path, undisturbed: Path, seconds: int, patience: int, restarts: int
) -> None:
    """A cut shorter than ranks wait for each other only takes time; after a longer one torchrun starts them again."""
    config = long(tmp_path, archive)
    with training(config, patience, restarts) as agents:
        launched.wait_for_update(config, 12, agents)
        cut(seconds)
        codes = [agent.wait(240) for agent in agents]
    said = "".join((tmp_path / f"{host}.log").read_text() for host in HOSTS)
    assert codes == [0, 0], said[-3000:]
    assert ending(tmp_path / "training") == ending(undisturbed)
