"""Ray: one that this process starts on this machine, or a running cluster."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ..errors import InputError

INSTALL = "pip install 'illava[ray]'"
CLIENT = "ray://"
STARTS = 5
"""How often Ray is started. Its first processes have 15 seconds, which is not enough on a busy machine."""
STEPS = 10_000
"""Of Ray's counts of cores, in a core."""
START_SECONDS = 300
"""What further processes of Ray may take to start."""


def check_installed(option: str) -> None:
    """Raise InputError if Ray is not installed. ``option`` is what needs it."""
    if find_spec("ray") is None:
        raise InputError(f"{option} needs Ray: {INSTALL}")


@contextmanager
def connected(address: str | None, forward_output: bool = False) -> Iterator[None]:
    """Within the block this process is connected to Ray.

    Args:
        address: that of a running cluster, of which this machine is a part: "auto" or HOST:PORT. None: Ray is
            started on this machine. It listens on loopback only, has no dashboard, writes to a folder of its
            own in the temporary folder, and ends with the block.
        forward_output: print what workers print.

    Usage statistics are off. Raises InputError if there is no cluster at the address.
    """
    check_installed("--address" if address is not None else "this command")
    if address is not None and (address.startswith(CLIENT) or not address.strip()):
        raise InputError(f"--address {address}: give auto or HOST:PORT, on a machine of the cluster")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not forward_output:
        # Ray's native code writes to the terminal what concerns developers of Ray.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": forward_output}
    folder = None
    if address is None:
        _stay_on_this_machine()
        folder = tempfile.mkdtemp(prefix="illava-ray-")
        options |= {"include_dashboard": False, "_temp_dir": folder}
        limits = {"agent_register_timeout_ms": 1000 * START_SECONDS}
        limits["worker_register_timeout_seconds"] = START_SECONDS
        options |= {"_system_config": {"enable_metrics_collection": False, **limits}}
    import ray

    try:
        for left in reversed(range(1 if address else STARTS)):
            try:
                with _silent():
                    ray.init(address or "local", **options)
                break
            except Exception as error:
                # Ray raises arbitrary exceptions here.
                if not left:
                    where = f"--address {address}: Ray does not answer" if address else "Ray does not start"
                    raise InputError(f"{where}: {' '.join(str(error).split())}") from error
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _silent() -> Iterator[None]:
    """Discard what is written to the standard error output, by native code too. Errors are exceptions."""
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _stay_on_this_machine() -> None:
    """Settings that Ray reads when it is imported and when it starts."""
    # Whatever its name says: without a cluster Ray listens on loopback, on all systems.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Other users of this machine can reach loopback. In the environment the key is not written to a file.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Otherwise Ray looks for an address in the environment.
    os.environ.pop("RAY_ADDRESS", None)


def without_bars() -> None:
    """Turn off the progress bars of the libraries, in a process without a terminal."""
    from transformers.utils import logging

    untyped: Any = logging
    untyped.disable_progress_bar()


def resources(count: int, device: str, option: str) -> dict[str, float]:
    """The cores and graphics cards of each of ``count`` processes, as Ray's options.

    Cores are shared evenly. With a device of cuda each process has a card of its own; with auto too, if the
    cluster has cards.

    Args:
        option: the option that gives the count, for errors.

    Raises InputError if there are too few cards or cores, and for other devices.
    """
    import ray

    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {device}: with {option} give auto, cpu or cuda; Ray chooses the cards")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cards = int(sum(node.get("GPU", 0) for node in nodes))
    if device == "cuda" or (device == "auto" and cards):
        if cards < count:
            raise InputError(
                f"{option} {count}: each needs a graphics card, Ray has {cards}; give fewer, or --device cpu"
            )
        return {"num_cpus": 1, "num_gpus": 1}
    cores = [node.get("CPU", 0) for node in nodes]
    share = share_of_cores(cores, count)
    if share is None:
        raise InputError(f"{option} {count}: too many for {sum(cores):g} cores; give fewer")
    return {"num_cpus": share, "num_gpus": 0}


def share_of_cores(cores: list[float], count: int) -> float | None:
    """The most cores that each of ``count`` processes can have, on machines with so many cores each.

    A whole number, or a part of one core if there are more processes than cores; None if they are too many.
    """
    for share in range(int(max(cores, default=0)), 0, -1):
        if sum(int(have // share) for have in cores) >= count:
            return float(share)
    for parts in range(2, 1000):
        if sum(int(have * parts) for have in cores) >= count:
            # Ray counts in steps of 1/10000, and all parts together must not be more than a core.
            return int(STEPS / parts) / STEPS
    return None
