#!/usr/bin/env python3
"""Holdfast's engine against restic, side by side on this machine.

Both do the same work on the same tree in alternating order: first backup, unchanged backup, restore, check with all
data read. Prints medians of wall time, CPU time and peak memory, and how many times less Holdfast needs. The first
restores of both are compared with the source, so that no number stands for wrong work.

    bench/engine.py --holdfast target/release/holdfast --restic "$(testbed restic 0.19.1)"
"""

import argparse
import json
import os
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

OPERATIONS = ["backup", "unchanged", "restore", "check"]
GIB = 1 << 30


@dataclass
class Cost:
    """What one command took."""

    wall: float
    cpu: float
    memory: int


class Failed(Exception):
    """A command that was to be measured did not do its work."""


def measure(command: list[str], env: dict[str, str]) -> Cost:
    # What the command before has left to be written must not be paid for by this one.
    os.sync()
    with tempfile.TemporaryFile() as log:
        begin = time.monotonic()
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            tail = b"\n".join(log.read().splitlines()[-15:]).decode(errors="replace")
            raise Failed(f"{' '.join(command)}\nended with {process.returncode}:\n{tail}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


class Program:
    """One of the two, with its own words for the same work."""

    def __init__(self, name: str, prefix: list[str], restore: list[str], check: list[str], work: Path):
        self.name = name
        self.prefix = prefix
        self.restore_flags = restore
        self.check_flags = check
        self.repository = work / f"repository-{name}"
        self.target = work / f"restored-{name}"
        self.env = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(work),
            "RESTIC_REPOSITORY": str(self.repository),
            # As long as the operator makes them.
            "RESTIC_PASSWORD": "0123456789abcdef" * 4,
        }

    def round(self, tree: Path) -> dict[str, Cost]:
        """All operations on a fresh repository."""
        self.clear()
        measure([*self.prefix, "init"], self.env)
        costs = {}
        costs["backup"] = measure([*self.prefix, "backup", str(tree)], self.env)
        costs["unchanged"] = measure([*self.prefix, "backup", str(tree)], self.env)
        restore = [*self.prefix, "restore", f"latest:{tree}", "--target", str(self.target), *self.restore_flags]
        costs["restore"] = measure(restore, self.env)
        costs["check"] = measure([*self.prefix, "check", "--read-data", *self.check_flags], self.env)
        return costs

    def stored(self) -> int:
        return sum(p.stat().st_size for p in self.repository.rglob("*") if p.is_file())

    def clear(self) -> None:
        for path in (self.repository, self.target):
            shutil.rmtree(path, ignore_errors=True)


def compare(source: Path, restored: Path, who: str) -> None:
    """The restored tree is the source: names, content, modes, times, links."""
    result = subprocess.run(
        ["diff", "--recursive", "--no-dereference", "--brief", str(source), str(restored)],
        capture_output=True, text=True, check=False,
    )
    if result.returncode != 0:
        raise Failed(f"what {who} restored is not the source:\n{result.stdout[:2000]}{result.stderr[:2000]}")
    for directory, names, files in os.walk(source):
        for name in names + files:
            path = Path(directory, name)
            twin = restored / path.relative_to(source)
            a, b = path.lstat(), twin.lstat()
            # A directory's own size is the file system's affair: it depends on the names that it held before.
            same_size = stat.S_ISDIR(a.st_mode) or a.st_size == b.st_size
            if (a.st_mode, a.st_mtime_ns) != (b.st_mode, b.st_mtime_ns) or not same_size:
                raise Failed(f"{who} restored {path} with another mode, time or size")


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(c, field) for c in costs) for field in ("wall", "cpu", "memory")))


def table(rounds: dict[str, list[dict[str, Cost]]]) -> str:
    lines = [
        f"{'':10} {'wall (s)':^25}   {'CPU (s)':^25}   {'peak memory (MiB)':^25}",
        f"{'':10} " + "   ".join(f"{'holdfast':>9}{'restic':>8}{'ratio':>8}" for _ in range(3)),
    ]
    for operation in OPERATIONS:
        ours = median([r[operation] for r in rounds["holdfast"]])
        theirs = median([r[operation] for r in rounds["restic"]])
        cells = []
        for a, b, form in (
            (ours.wall, theirs.wall, "{:.2f}"),
            (ours.cpu, theirs.cpu, "{:.2f}"),
            (ours.memory / 2**20, theirs.memory / 2**20, "{:.0f}"),
        ):
            cells.append(f"{form.format(a):>9}{form.format(b):>8}{b / a if a else 0:>7.2f}x")
        lines.append(f"{operation:10} " + "   ".join(cells))
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--holdfast", required=True, help="the release binary")
    parser.add_argument("--restic", required=True, help="stock restic 0.19.1")
    parser.add_argument("--size", type=float, default=2.0, help="size of the tree in GiB (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs (default 3)")
    parser.add_argument("--quick", action="store_true", help="a quarter of a GiB, two pairs")
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--work", type=Path, help="directory to work in (default: holdfast-bench in TMPDIR or /var/tmp)")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if args.quick:
        args.size, args.rounds = 0.25, 2
    work = args.work or Path(os.environ.get("TMPDIR", "/var/tmp"), "holdfast-bench")
    tree = work / "tree"
    work.mkdir(parents=True, exist_ok=True)
    print(f"making the tree of {args.size} GiB in {work} …", file=sys.stderr)
    # In a process of its own: the peak memory of a child is never less than what its parent once had.
    maker = [sys.executable, str(Path(__file__).with_name("corpus.py")), str(tree), str(int(args.size * GIB)), str(args.seed)]
    holds = json.loads(subprocess.run(maker, stdout=subprocess.PIPE, check=True).stdout)
    # Where the cache lives must not matter: restic works without one, as Holdfast does.
    programs = [
        Program("holdfast", [args.holdfast, "repo"], [], [], work),
        Program("restic", [args.restic, "--no-cache"], [], [], work),
    ]
    rounds: dict[str, list[dict[str, Cost]]] = {p.name: [] for p in programs}
    stored: dict[str, int] = {}
    try:
        for number in range(args.rounds):
            order = programs if number % 2 == 0 else programs[::-1]
            for program in order:
                print(f"pair {number + 1} of {args.rounds}: {program.name} …", file=sys.stderr)
                rounds[program.name].append(program.round(tree))
                if number == 0:
                    compare(tree, program.target, program.name)
                    stored[program.name] = program.stored()
                program.clear()
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    finally:
        for program in programs:
            program.clear()
    version = subprocess.run([args.restic, "version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"\n{holds['files']:,} files, {holds['bytes'] / GIB:.2f} GiB; medians of {args.rounds} pairs, warm page cache,")
    print(f"{os.cpu_count()} cores; against {version.split(' compiled')[0]}; a ratio above 1 means Holdfast needs less\n")
    print(table(rounds))
    ratio = stored["holdfast"] / stored["restic"]
    print(f"\nrepository: {stored['holdfast'] / 2**20:,.0f} MiB against {stored['restic'] / 2**20:,.0f} MiB ({ratio:.3f})")
    if args.json:
        figures = {name: [{op: asdict(c) for op, c in r.items()} for r in all_] for name, all_ in rounds.items()}
        args.json.write_text(json.dumps({"tree": holds, "stored": stored, "rounds": figures}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
