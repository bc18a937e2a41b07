#!/usr/bin/env python3
"""What a million of files costs: time and peak memory of a backup, of an unchanged one, and of getting one file back.

Two trees: a single directory of 1,000,000 entries, and 1,000,000 small files of different content in 1,000
directories. What is claimed is checked: the second backup reads nothing again, and the file that comes back is the
one that was saved.

    bench/scale.py --holdfast target/release/holdfast
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from engine import machine
from measure import Cost, Failed, measure
from programs import Holdfast

MIB = 1 << 20


def flat(root: Path, count: int) -> Path:
    """One directory, empty files."""
    root.mkdir(parents=True)
    for number in range(count):
        os.close(os.open(root / f"entry-{number:07}", os.O_CREAT | os.O_WRONLY, 0o644))
    wanted = root / f"entry-{count // 2:07}"
    wanted.write_text("the one with content\n")
    return wanted


def wide(root: Path, count: int) -> Path:
    """A thousand directories, every file with content of its own."""
    for number in range(count):
        if number % 1000 == 0:
            directory = root / f"d{number // 1000:04}"
            directory.mkdir(parents=True)
        file = os.open(directory / f"file-{number:07}", os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(file, b"content of file %d\n" % number * 4)
        os.close(file)
    middle = count // 2
    return root / f"d{middle // 1000:04}" / f"file-{middle:07}"


SCENES = {"flat": ("one directory", flat), "wide": ("directories of 1,000 files", wide)}


class Scale:
    def __init__(self, binary: str, work: Path, count: int):
        self.count = count
        self.work = work
        self.holdfast = Holdfast(binary, work)
        self.rows: list[tuple[str, str, Cost]] = []

    def summary(self) -> dict:
        """The newest snapshot's."""
        listing = subprocess.run(
            self.holdfast.listing(), env=self.holdfast.env(), capture_output=True, text=True, check=True
        ).stdout
        return sorted(json.loads(listing), key=lambda s: s["time"])[-1]["summary"]

    def add(self, scene: str, what: str, command: list[str]) -> None:
        cost = measure(command, self.holdfast.env())
        print(f"{scene}, {what}: {cost.wall:.1f} s, {cost.memory / MIB:.0f} MiB", file=sys.stderr)
        self.rows.append((scene, what, cost))

    def run(self, name: str) -> None:
        title, fill = SCENES[name]
        tree = self.work / f"scale-{name}"
        shutil.rmtree(tree, ignore_errors=True)
        self.holdfast.clear()
        print(f"making {self.count:,} files in {title} …", file=sys.stderr)
        try:
            wanted = fill(tree, self.count)
            # Files changed less than 2 s before a backup are read again by the next one.
            time.sleep(3)
            measure(self.holdfast.init(), self.holdfast.env())
            self.add(title, "first backup", self.holdfast.backup(tree))
            found = self.summary()
            self.demand(found["files_new"] == self.count, f"{found['files_new']} new files in the first backup")
            self.add(title, "unchanged backup", self.holdfast.backup(tree))
            found = self.summary()
            again = (found["files_new"], found["files_changed"], found["files_unmodified"])
            self.demand(again == (0, 0, self.count), f"new, changed, unmodified files of the second backup: {again}")
            target = self.work / "scale-one"
            shutil.rmtree(target, ignore_errors=True)
            relative = wanted.relative_to(tree)
            self.add(title, "restore of one file", self.holdfast.words(
                "restore", f"latest:{tree}", "--include", f"/{relative}", "--target", str(target)))
            self.demand((target / relative).read_bytes() == wanted.read_bytes(), f"{relative} came back otherwise")
            others = sum(len(files) for _, _, files in os.walk(target))
            self.demand(others == 1, f"{others} files came back instead of one")
            self.add(title, "check of the structure", self.holdfast.words("check"))
        finally:
            for path in (tree, self.work / "scale-one"):
                shutil.rmtree(path, ignore_errors=True)
            self.holdfast.clear()

    @staticmethod
    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise Failed(what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--holdfast", required=True, help="the release binary")
    parser.add_argument("--count", type=int, default=1_000_000, help="files (default %(default)s)")
    parser.add_argument("--scenes", default=",".join(SCENES), help="default %(default)s")
    parser.add_argument("--work", type=Path, help="directory to work in (default: holdfast-scale in TMPDIR or /var/tmp)")
    args = parser.parse_args()
    work = args.work or Path(os.environ.get("TMPDIR", "/var/tmp"), "holdfast-scale")
    work.mkdir(parents=True, exist_ok=True)
    scale = Scale(args.holdfast, work, args.count)
    failed = False
    for name in args.scenes.split(","):
        try:
            scale.run(name)
        except Failed as failure:
            failed = True
            print(f"{name}: {failure}", file=sys.stderr)
    print(f"\n{machine()}; {args.count:,} files.\n")
    print("|  |  | wall (s) | CPU (s) | peak (MiB) |\n| --- | --- | ---: | ---: | ---: |")
    for scene, what, cost in scale.rows:
        print(f"| {scene} | {what} | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.memory / MIB:.0f} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
