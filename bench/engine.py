#!/usr/bin/env python3
"""Holdfast's engine against restic, and rustic and kopia if they are given, side by side on this machine.

All do the same work on the same trees in alternating order. Prints medians of wall time, processor time and peak
memory, and how many times less Holdfast needs. What is restored is compared with its source in the first round, so
that no number stands for wrong work.

    bench/engine.py --holdfast target/release/holdfast --restic "$(testbed restic 0.19.1)"
"""

import argparse
import json
import os
import platform
import stat
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import corpus
from measure import Cost, Failed, measure, median
from programs import Holdfast, Kopia, Program, Restic, Rustic
from s3 import Server

GIB = 1 << 30
MIB = 1 << 20


@dataclass
class Scene:
    """One tree and what is done with it."""

    kind: str
    """Of the tree, see `corpus`."""
    size: int
    """Bytes; for small files their number."""
    rounds: int
    """Unless others are asked for."""


# So that all of it with three programs takes about 25 minutes on two cores.
SCENES = {
    "mixed": Scene("mixed", int(2.8 * GIB), 2),
    "small": Scene("small", 40_000, 3),
    "large": Scene("one", 4 * GIB, 1),
    "random": Scene("random", GIB, 2),
    "text": Scene("text", GIB, 2),
    "sparse": Scene("sparse", 16 * GIB, 2),
    "prune": Scene("mixed", GIB, 2),
    "s3": Scene("mixed", GIB // 2, 2),
}

# What the rows of the table are called, in their order.
ROWS = {
    "mixed": "first backup, mixed",
    "unchanged": "unchanged backup",
    "restore": "restore",
    "check": "check, all data",
    "changed": "backup, 5 % changed",
    "in place": "restore in place, 5 % changed",
    "small": "first backup, small files",
    "small unchanged": "unchanged backup, small files",
    "large": "first backup, one file",
    "random": "first backup, random",
    "text": "first backup, text",
    "sparse": "first backup, sparse",
    "prune": "prune, half of each pack",
    "s3": "first backup, S3 at 20 ms",
    "s3 unchanged": "unchanged backup, S3 at 20 ms",
    "s3 restore": "restore, S3 at 20 ms",
}


class Figures:
    """All that was measured."""

    def __init__(self) -> None:
        self.costs: dict[str, dict[str, list[Cost]]] = defaultdict(lambda: defaultdict(list))
        self.stored: dict[str, dict[str, int]] = defaultdict(dict)
        self.requests: dict[str, dict[str, int]] = defaultdict(dict)
        # Processor time of the server beside the program, which works on the same machine.
        self.beside: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.trees: dict[str, dict] = {}


class Bench:
    """The trees, the programs and the figures of one run."""

    def __init__(self, args: argparse.Namespace, work: Path, programs: list[Program]):
        self.args = args
        self.work = work
        self.programs = programs
        self.figures = Figures()

    def tree(self, name: str) -> Path:
        scene = SCENES[name]
        size = self.args.large << 30 if name == "large" else scene.size
        size = size // 8 if self.args.quick else size
        tree = self.work / f"tree-{scene.kind}-{size}"
        print(f"making the tree for {name} …", file=sys.stderr)
        # In a process of its own: the peak memory of a child is never less than what its parent once had.
        maker = [sys.executable, str(Path(__file__).with_name("corpus.py")), scene.kind, str(tree), str(size)]
        output = subprocess.run([*maker, str(self.args.seed)], stdout=subprocess.PIPE, check=True).stdout
        self.figures.trees[name] = json.loads(output)
        # Files changed less than 2 s before a backup are read again by the next one, by those who are careful.
        time.sleep(3)
        return tree

    def run(self, name: str) -> None:
        tree = self.tree(name)
        rounds = self.args.rounds.get(name, self.args.rounds.get("", SCENES[name].rounds))
        play = {"mixed": self.mixed, "prune": self.prune, "s3": self.s3}.get(name, self.first)
        for number in range(rounds):
            for program in self.programs if number % 2 == 0 else self.programs[::-1]:
                begin = time.monotonic()
                print(f"{name}: {number + 1} of {rounds}: {program.name} …", end=" ", file=sys.stderr, flush=True)
                try:
                    play(name, program, tree, number == 0)
                except Failed as failure:
                    # The rows that it did are kept, and the others go on.
                    if isinstance(program, Holdfast):
                        raise
                    print(f"{name}: {program.name} ends here: {failure}", file=sys.stderr)
                finally:
                    program.use(None)
                    program.clear()
                    print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr)

    def add(self, row: str, program: Program, command: list[str]) -> None:
        program.drop_cache()
        cost = measure(command, program.env())
        self.figures.costs[row][program.name].append(cost)

    def begin(self, program: Program) -> None:
        program.clear()
        measure(program.init(), program.env())

    def first(self, name: str, program: Program, tree: Path, check: bool) -> None:
        """One backup into a new repository."""
        self.begin(program)
        self.add(name, program, program.backup(tree))
        self.figures.stored[name][program.name] = program.stored()
        if name == "small":
            self.add("small unchanged", program, program.backup(tree))
        if check:
            measure(program.restore("latest", tree), program.env())
            compare(tree, program.target, program.name, program.keeps_times)

    def mixed(self, name: str, program: Program, tree: Path, check: bool) -> None:
        """The life of a tree: saved, saved again, restored, checked, changed, saved, brought back."""
        self.first(name, program, tree, False)
        self.add("unchanged", program, program.backup(tree))
        self.add("restore", program, program.restore("latest", tree))
        if check:
            compare(tree, program.target, program.name, program.keeps_times)
        self.add("check", program, program.check())
        original = program.snapshots()[0]
        corpus.change(tree, self.args.seed)
        try:
            self.add("changed", program, program.backup(tree))
        finally:
            corpus.change(tree, self.args.seed)
        self.figures.stored["changed"][program.name] = program.stored()
        corpus.change(program.target, self.args.seed)
        self.add("in place", program, program.restore(original, tree))
        if check:
            compare(tree, program.target, program.name, times=False)

    def prune(self, name: str, program: Program, tree: Path, check: bool) -> None:
        """Of each pack about half is still needed."""
        prune = program.prune()
        if prune is None:
            return
        self.begin(program)
        measure(program.backup(tree), program.env())
        measure(program.backup(tree, exclude="*[13579].*"), program.env())
        measure(program.forget(program.snapshots()[0]), program.env())
        self.add(name, program, prune)
        self.figures.stored[name][program.name] = program.stored()
        if check:
            measure(program.check(), program.env())

    def s3(self, name: str, program: Program, tree: Path, check: bool) -> None:
        """Through a line that delays each answer; the server is on this machine and takes part of its time."""
        with Server(self.args.versitygw, self.args.testbed, self.work / f"s3-{program.name}", 20) as server:
            program.use(*server.access(program.name))
            measure(program.init(), program.env())
            rows = {
                name: program.backup(tree),
                "s3 unchanged": program.backup(tree),
                "s3 restore": program.restore("latest", tree),
            }
            server.requests(), server.cpu()
            for row, command in rows.items():
                self.add(row, program, command)
                self.figures.requests[row][program.name] = server.requests()
                self.figures.beside[row][program.name].append(server.cpu())
            if check:
                compare(tree, program.target, program.name, program.keeps_times)


def compare(source: Path, restored: Path, who: str, times: bool = True) -> None:
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
            same_time = not times or a.st_mtime_ns == b.st_mtime_ns
            if a.st_mode != b.st_mode or not same_time or not same_size:
                raise Failed(f"{who} restored {path} with another mode, time or size")


def table(figures: Figures, names: list[str]) -> str:
    """Markdown: what Holdfast needs, and how many times as much each of the others."""
    others = [n for n in names if n != "holdfast"]
    head = ["", "wall (s)", "CPU (s)", "peak (MiB)"]
    for other in others:
        head += [f"wall, {other}", f"CPU, {other}", f"peak, {other} (MiB)"]
    head += ["repository"] + (["requests", "server's CPU (s)"] if figures.requests else [])
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for row, title in ROWS.items():
        costs = figures.costs.get(row)
        if not costs or "holdfast" not in costs:
            continue
        ours = median(costs["holdfast"])
        cells = [title, f"{ours.wall:.2f}", f"{ours.cpu:.2f}", f"{ours.memory / MIB:.0f}"]
        for other in others:
            if other not in costs:
                cells += ["", "", ""]
                continue
            theirs = median(costs[other])
            cells += [f"{theirs.wall / ours.wall:.1f}x", f"{theirs.cpu / ours.cpu:.1f}x", f"{theirs.memory / MIB:.0f}"]
        stored = figures.stored.get(row, {})
        cells.append(" / ".join(f"{stored[n] / MIB:.0f}" for n in names if n in stored))
        if figures.requests:
            cells.append(" / ".join(str(figures.requests[row][n]) for n in names if n in figures.requests.get(row, {})))
            beside = figures.beside.get(row, {})
            cells.append(" / ".join(f"{statistics.median(beside[n]):.2f}" for n in names if n in beside))
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def machine() -> str:
    model = next((l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in l), "?")
    flags = set(Path("/proc/cpuinfo").read_text().split())
    has = [f for f in ("sha_ni", "avx2", "avx512bw", "gfni") if f in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{os.cpu_count()} cores of {model} ({', '.join(has)}), {memory:.0f} GiB, Linux {platform.release()}"


def told(args: argparse.Namespace, figures: Figures) -> str:
    """How much was done, in words."""
    made = {len(costs) for by in figures.costs.values() for costs in by.values()} or {0}
    least, most = min(made), max(made)
    number = f"{least}" if least == most else f"{least} to {most}"
    return f"{number} round{'s' if most != 1 else ''}{', an eighth of the data' if args.quick else ''}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--holdfast", required=True, help="the release binary")
    parser.add_argument("--restic", required=True, help="stock restic 0.19.1")
    parser.add_argument("--rustic", help="rustic; left out if not given")
    parser.add_argument("--kopia", help="kopia; left out if not given")
    parser.add_argument("--versitygw", help="S3 server, for the rows of S3")
    parser.add_argument("--testbed", help="the test bed's program, whose slow line the rows of S3 use")
    parser.add_argument("--rows", default="mixed,small,large,random,text,sparse,prune,s3", help="scenes: %(default)s")
    parser.add_argument(
        "--rounds", type=rounds, default={}, metavar="N or SCENE=N,…",
        help="of all scenes, or of some; the others have " + ", ".join(f"{n} {s.rounds}" for n, s in SCENES.items()),
    )  # fmt: skip
    parser.add_argument("--large", type=int, default=4, metavar="GIB", help="the one file's size (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="an eighth of the data, one round")
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--work", type=Path, help="directory to work in (default: holdfast-bench in TMPDIR or /var/tmp)")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    args = parser.parse_args()
    if args.quick:
        args.rounds = {"": 1}
    return args


def rounds(text: str) -> dict[str, int]:
    """How many for each scene; without a scene for those that are not named."""
    pairs = (part.rpartition("=") for part in text.split(","))
    wanted = {scene: int(number) for scene, _, number in pairs}
    unknown = wanted.keys() - SCENES.keys() - {""}
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no scene {', '.join(unknown)}")
    return wanted


def main() -> int:
    args = arguments()
    work = args.work or Path(os.environ.get("TMPDIR", "/var/tmp"), "holdfast-bench")
    work.mkdir(parents=True, exist_ok=True)
    programs: list[Program] = [Holdfast(args.holdfast, work), Restic(args.restic, work)]
    if args.rustic:
        programs.append(Rustic(args.rustic, work))
    if args.kopia:
        programs.append(Kopia(args.kopia, work))
    bench = Bench(args, work, programs)
    failed = False
    for name in args.rows.split(","):
        if name == "s3" and not (args.versitygw and args.testbed):
            print("s3: left out, it needs --versitygw and --testbed", file=sys.stderr)
            continue
        try:
            bench.run(name)
        except Failed as failure:
            failed = True
            print(failure, file=sys.stderr)
    figures, names = bench.figures, [p.name for p in programs]
    print(f"\n{machine()}.")
    print(f"{', '.join(p.version() for p in programs)}; medians of {told(args, figures)}, warm page cache;")
    print(f"ratios: how many times as much as Holdfast; repository in MiB and requests: {' / '.join(names)}.\n")
    for name, holds in figures.trees.items():
        print(f"- {name}: {holds['files']:,} files, {holds['bytes'] / GIB:.2f} GiB")
    print("\n" + table(figures, names))
    if args.json:
        costs = {row: {n: [asdict(c) for c in cs] for n, cs in by.items()} for row, by in figures.costs.items()}
        rest = {"trees": figures.trees, "stored": figures.stored, "requests": figures.requests, "beside": figures.beside}
        args.json.write_text(json.dumps({"machine": machine(), "costs": costs} | rest, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
