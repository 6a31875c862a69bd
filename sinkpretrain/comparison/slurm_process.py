"""How a Slurm task starts: signals wait until the run can answer them.

`python -m sinkpretrain.comparison.slurm_process -m MODULE ARGUMENTS` is `python -m MODULE ARGUMENTS` with the signals
of `STOPPING` held back. Python and submitit take seconds to start, on a busy file system more; a signal that came
before would end the job, or be thrown away.
"""

import runpy
import signal
import sys

STOPPING = (signal.SIGTERM, signal.SIGUSR2)  # Slurm's at preemption, requeue and cancelling; ours before the time limit


def hold_back() -> None:
    """Let the signals wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def let_through() -> None:
    """Deliver them, those that waited first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


if __name__ == "__main__":
    hold_back()
    module = sys.argv.index("-m") + 1
    sys.argv = sys.argv[module:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
