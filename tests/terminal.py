"""A process whose standard error is a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios


def run(work: str) -> tuple[str, str]:
    """Standard output and what stands on the terminal that standard error is."""
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", work], stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True
    ) as process:
        os.close(theirs)
        seen = b""
        while chunk := _read(terminal):
            seen += chunk
        os.close(terminal)
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == 0, seen.decode()
    return out, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to say that nobody writes to it any more
        return b""
