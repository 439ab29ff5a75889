"""Which folder a run's blocks are in: its own, or one that runs on the same data have in common.

    DIR/streamgd-RUN    of one run, guarded by the run's lock
    DIR/streamgd-KEY    kept by --keep-blocks for every run whose blocks would have the same bits

The common folder is guarded by the kernel's lock on the folder itself, which ends with the process: exclusive while
its blocks are made, shared while they are read. A run that finds it taken makes blocks of its own.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamgd import state as states


@dataclass
class BlocksFolder:
    """A folder that is held until it is closed.

    Attributes
    ----------
    passing : bool
        Whether the blocks go when the run ends.
    ready : bool
        Whether another run has made the blocks.
    """

    path: Path
    passing: bool
    ready: bool = False
    _descriptor: int | None = None

    def share(self) -> None:
        """Let other runs read the blocks, now that they are made."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def claim_folder(own: Path, common: Path | None, keep: bool, is_ready: Callable[[Path], bool]) -> BlocksFolder:
    """The folder to use.

    Parameters
    ----------
    common : Path or None
        None where there is no place that runs have in common.
    keep : bool
        Whether blocks that are made are kept.
    is_ready : function of a folder
        Whether it holds the blocks wanted, whole.
    """
    if common is None:
        return BlocksFolder(own, passing=not keep)
    descriptor = _hold(common, fcntl.LOCK_SH)
    if descriptor is not None:
        if is_ready(common):
            return BlocksFolder(common, passing=False, ready=True, _descriptor=descriptor)
        os.close(descriptor)
    if keep:
        states.make_folder(common)
        descriptor = _hold(common, fcntl.LOCK_EX)
        if descriptor is not None:
            return BlocksFolder(common, passing=False, ready=is_ready(common), _descriptor=descriptor)
    return BlocksFolder(own, passing=True)


def _hold(folder: Path, kind: int) -> int | None:
    """A descriptor that holds the lock of ``folder``, or None where it is not there or taken."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):  # else it was removed while we waited
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None
