"""Makes the trees that the benchmark works on: fixed by a seed, so that every machine measures the same bytes.

The mixed tree is as servers have them: much small text, some logs and dumps, libraries and images that compress
little, a few large files, links, empty files, one sparse file, and the same file in several places.
"""

import json
import os
import random
import shutil
import sys
from pathlib import Path

# Raise it when the content changes, so that an old tree is not taken for the new one.
VERSION = 2
MIB = 1 << 20


class Text:
    """Text that compresses like text, about 3 to 1, and never the same twice."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        weights = [max(1, 60 - 3 * i) for i in range(len(letters))]
        words = ["".join(rng.choices(letters, weights, k=rng.randint(2, 11))) for _ in range(20_000)]
        frequency = [1.0 / (rank + 3) for rank in range(len(words))]
        chosen = rng.choices(words, frequency, k=1_500_000)
        marks = rng.choices([" ", " ", " ", " ", ", ", ". ", "\n", " = ", " (", ") "], k=len(chosen))
        self.pool = "".join(a + b for a, b in zip(chosen, marks)).encode()
        self.alphabet = bytes(range(ord("a"), ord("z") + 1))

    def write(self, out, size: int) -> None:
        # Each slice has its letters exchanged, so that no slice repeats another one.
        while size > 0:
            length = min(size, self.rng.randint(16, 256) * 1024)
            start = self.rng.randrange(len(self.pool) - length)
            other = list(self.alphabet)
            self.rng.shuffle(other)
            out.write(self.pool[start : start + length].translate(bytes.maketrans(self.alphabet, bytes(other))))
            size -= length


def write_random(rng: random.Random, out, size: int) -> None:
    while size > 0:
        length = min(size, MIB)
        out.write(rng.randbytes(length))
        size -= length


def write_records(rng: random.Random, out, size: int) -> None:
    """Like a database's pages or machine code: half structure, half noise."""
    while size > 0:
        length = min(size, MIB) // 16 * 16 or 16
        block = bytearray(length)
        rows = length // 16
        for column in (0, 1, 4, 5, 9):
            block[column::16] = rng.randbytes(rows)
        block[8::16] = bytes(i & 0xFF for i in range(rows))
        block[12::16] = b"\x10" * rows
        out.write(block)
        size -= length


def make(kind: str, root: Path, size: int, seed: int) -> dict:
    """Makes a tree of that kind below `root` unless it is there; returns what it holds."""
    stamp = root.parent / (root.name + ".stamp")
    wanted = f"{VERSION} {kind} {size} {seed}\n"
    if not (stamp.exists() and stamp.read_text() == wanted and root.exists()):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        FILL[kind](root, size, random.Random(seed))
        stamp.write_text(wanted)
    return count(root)


def mixed(root: Path, size: int, rng: random.Random) -> None:
    text = Text(rng)
    left = size

    def file(path: Path, length: int, kind: str) -> None:
        nonlocal left
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as out:
            if kind == "text":
                text.write(out, length)
            elif kind == "records":
                write_records(rng, out, length)
            else:
                write_random(rng, out, length)
        when = 1_700_000_000 + rng.randrange(30_000_000)
        os.utime(path, ns=(when * 10**9, when * 10**9 + rng.randrange(10**9)))
        left -= length

    # Sources and configuration: two fifths of the files' number, a twelfth of the bytes.
    number = 0
    while left > size * 11 // 12:
        directory = root / "src" / f"{number // 400:03}" / f"{number // 20 % 20:02}"
        file(directory / f"file{number}.txt", int(rng.lognormvariate(8.3, 1.2)) + 1, "text")
        number += 1
    # Logs and dumps.
    while left > size * 8 // 12:
        file(root / "log" / f"{left}.log", rng.randint(1, 24) * MIB, "text")
    # Pages of databases, libraries.
    while left > size * 4 // 12:
        file(root / "lib" / f"{left}.bin", rng.randint(MIB // 8, 12 * MIB), "records")
    # Pictures and archives: nothing to compress.
    while left > size // 12:
        file(root / "media" / f"{left}.jpg", rng.randint(64 * 1024, 6 * MIB), "random")
    file(root / "large" / "image.raw", max(left, MIB), "records")

    kinds = root / "kinds"
    kinds.mkdir()
    (kinds / "empty").touch()
    (kinds / "empty directory").mkdir()
    os.symlink("../large/image.raw", kinds / "link")
    os.link(root / "large" / "image.raw", kinds / "hard link")
    with open(kinds / "sparse", "wb") as out:
        out.truncate(64 * MIB)
        out.seek(32 * MIB)
        out.write(rng.randbytes(4096))
    for number, path in enumerate(sorted((root / "media").iterdir())[:20]):
        shutil.copy2(path, kinds / f"copy{number}")


def small(root: Path, size: int, rng: random.Random) -> None:
    """Files of 2 KiB in the middle, 100 to a directory; `size` is their number."""
    text = Text(rng)
    for number in range(size):
        directory = root / f"{number // 10_000:02}" / f"{number // 100 % 100:02}"
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / f"{number}.yaml", "wb") as out:
            text.write(out, int(rng.lognormvariate(7.6, 1.0)) + 1)


def one(root: Path, size: int, rng: random.Random) -> None:
    """One file like an image of a database's disk."""
    text = Text(rng)
    with open(root / "disk.img", "wb") as out:
        left = size
        while left > 0:
            length = min(left, 32 * MIB)
            rng.choices([write_records, write_random, lambda _, o, n: text.write(o, n)], [5, 2, 3])[0](rng, out, length)
            left -= length


def noise(root: Path, size: int, rng: random.Random) -> None:
    """Files of 16 MiB that nothing can compress."""
    for number in range(max(1, size // (16 * MIB))):
        with open(root / f"{number}.bin", "wb") as out:
            write_random(rng, out, 16 * MIB)


def texts(root: Path, size: int, rng: random.Random) -> None:
    """Files of 16 MiB of text."""
    text = Text(rng)
    for number in range(max(1, size // (16 * MIB))):
        with open(root / f"{number}.log", "wb") as out:
            text.write(out, 16 * MIB)


def sparse(root: Path, size: int, rng: random.Random) -> None:
    """One file that is nearly all hole: 64 KiB of data in each GiB."""
    with open(root / "sparse.img", "wb") as out:
        out.truncate(size)
        for start in range(0, size, 1024 * MIB):
            out.seek(start + rng.randrange(1000) * MIB)
            out.write(rng.randbytes(64 * 1024))


FILL = {"mixed": mixed, "small": small, "one": one, "random": noise, "text": texts, "sparse": sparse}


def change(root: Path, seed: int) -> None:
    """Changes a twentieth of the bytes in place, each time the same: whole small files, pieces of large ones.

    Called again it changes them back.
    """
    rng = random.Random(seed)
    flip = bytes(b ^ 0x55 for b in range(256))
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            path = Path(directory, name)
            if path.is_symlink() or path.stat().st_nlink > 1 or path.name == "sparse":
                continue
            length = path.stat().st_size
            # One file in twenty of those that are a chunk at most, one piece in each larger one.
            if length <= MIB:
                if rng.randrange(20):
                    continue
                start, piece = 0, length
            else:
                piece = length // 20
                start = rng.randrange(length - piece)
            with open(path, "r+b") as file:
                file.seek(start)
                content = file.read(piece)
                file.seek(start)
                file.write(content.translate(flip))


def count(root: Path) -> dict:
    files = total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            status = os.lstat(os.path.join(directory, name))
            files += 1
            total += status.st_size
    return {"files": files, "bytes": total}


def warm(root: Path) -> None:
    """Reads everything once, so that it lies in the page cache."""
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                with open(path, "rb") as file:
                    while file.read(MIB):
                        pass


if __name__ == "__main__":
    tree = Path(sys.argv[2])
    holds = make(sys.argv[1], tree, int(sys.argv[3]), int(sys.argv[4]))
    warm(tree)
    print(json.dumps(holds))
