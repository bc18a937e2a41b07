"""An S3 server on this machine behind a slow line, with a count of the requests that it got."""

import os
import shlex
import shutil
import socket
import subprocess
import time
from pathlib import Path

ACCESS, SECRET, BUCKET = "bench-access", "bench-secret", "bench"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def processor_time(pid: int) -> float:
    """User and system time of all threads of a process, in seconds (proc(5))."""
    # Behind the program's name, which may hold anything, the 12th and 13th field.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """versitygw on a directory, reached through the test bed's slow line only."""

    def __init__(self, versitygw: str, testbed: str, directory: Path, milliseconds: int):
        self.versitygw = versitygw
        self.testbed = testbed
        self.directory = directory
        self.milliseconds = milliseconds
        self.children: list[subprocess.Popen] = []
        self.seen = 0
        self.spent = 0.0
        self.port = 0

    def __enter__(self) -> "Server":
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("meta", "iam", f"data/{BUCKET}"):
            (self.directory / name).mkdir(parents=True)
        self.log = self.directory / "requests.log"
        behind, self.port = free_port(), free_port()
        self.start([
            self.versitygw, "--quiet", "--keep-alive", "--access", ACCESS, "--secret", SECRET, "--port", f"127.0.0.1:{behind}",
            "--access-log", str(self.log), "--iam-dir", str(self.directory / "iam"),
            "posix", "--sidecar", str(self.directory / "meta"), str(self.directory / "data"),
        ])  # fmt: skip
        wait_for(behind)
        self.start([
            self.testbed, "slow-line", "--listen", f"127.0.0.1:{self.port}", "--to", f"127.0.0.1:{behind}",
            "--milliseconds", str(self.milliseconds),
        ])  # fmt: skip
        wait_for(self.port)
        return self

    def start(self, command: list[str]) -> None:
        nothing = subprocess.DEVNULL
        self.children.append(subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing))

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def requests(self) -> int:
        """How many came since the last call."""
        count = self.log.read_bytes().count(b"\n") if self.log.exists() else 0
        new, self.seen = count - self.seen, count
        return new

    def cpu(self) -> float:
        """Processor time, in seconds, of the server and of the slow line since the last call."""
        total = sum(processor_time(child.pid) for child in self.children)
        new, self.spent = total - self.spent, total
        return new

    def access(self, program: str) -> tuple[str, dict[str, str]]:
        """Location and variables, in the words of that program."""
        endpoint = f"http://127.0.0.1:{self.port}"
        keys = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        if program == "rustic":
            # It makes option names of these; the keys, whose names have underscores, it finds among AWS's own.
            options = {"BUCKET": BUCKET, "ROOT": "/repository", "ENDPOINT": endpoint, "REGION": "us-east-1"}
            return "opendal:s3", keys | {f"RUSTIC_REPO_OPT_{name}": value for name, value in options.items()}
        if program == "kopia":
            server = ["--endpoint", f"127.0.0.1:{self.port}", "--disable-tls", "--region", "us-east-1"]
            return shlex.join(["s3", "--bucket", BUCKET, "--prefix", "repository/", *server]), keys
        return f"s3:{endpoint}/{BUCKET}/repository", keys
