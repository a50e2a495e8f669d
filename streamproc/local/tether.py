"""Becomes a program that the kernel kills when its parent ends: ``python -I -S tether.py PARENT_PID PROGRAM ...``.

Redis cannot watch its parent, and a ``preexec_fn`` is unsafe where the parent runs threads, so this script asks for the
signal (Linux, "prctl(2)": PR_SET_PDEATHSIG survives execve) and then turns into the program, under the same process id.
Elsewhere than on Linux it only turns into the program. It imports nothing of this library, to start in milliseconds.
"""

import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9


def main() -> None:
    """Tie this process to its parent, and become the program."""
    parent, program, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes  # half of this script's start time, and of no use elsewhere

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
        if os.getppid() != int(parent):  # it ended before the call above: no signal will come
            sys.exit(1)
    os.execv(program, [program, *arguments])  # noqa: S606 - the stack gives the program, and no shell is meant


if __name__ == "__main__":
    main()
