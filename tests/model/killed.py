"""A training command that is killed in the middle of its steps."""

import subprocess
import sys
from pathlib import Path

# By itself, some steps after its first state.
_KILLED = """
import os, signal, sys
from tritserve.model.training import log
from tritserve.service.commands.cli import main
write = log.TrainingLog.write
def kill_later(self, step):
    write(self, step)
    if step.step == 110:
        os.kill(os.getpid(), signal.SIGKILL)
log.TrainingLog.write = kill_later
if __name__ == '__main__':
    main(sys.argv[1:])
"""


def run_until_killed(folder: Path, *arguments: str) -> None:
    """Runs `tritserve` until it is killed at step 110; its script goes into `folder`."""
    # Processes that it spawns read the script again.
    script = folder / "killed.py"
    script.write_text(_KILLED)
    victim = subprocess.run(
        [sys.executable, str(script), *arguments], check=False, capture_output=True, text=True
    )
    assert victim.returncode == -9, victim.stderr
