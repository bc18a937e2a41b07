"""The programs that are compared, each with its own words for the same work.

No program keeps a cache between commands: what one has on disk the other would have to fetch. All else is as it comes.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

# As long as the operator makes them.
PASSWORD = "0123456789abcdef" * 4


class Program:
    """A backup program with a repository of its own below the work directory."""

    name: str

    def __init__(self, binary: str, work: Path):
        self.binary = binary
        self.work = work
        self.local = work / f"repository-{self.name}"
        self.target = work / f"restored-{self.name}"
        self.repository = str(self.local)
        self.extra: dict[str, str] = {}

    def use(self, repository: str | None, extra: dict[str, str] | None = None) -> None:
        """Works on this repository from now on; on the directory of its own if it is none."""
        self.repository = repository or str(self.local)
        self.extra = extra or {}

    def env(self) -> dict[str, str]:
        basic = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.work), "TZ": "UTC"}
        return basic | self.access() | self.extra

    def clear(self) -> None:
        for path in (self.local, self.target):
            shutil.rmtree(path, ignore_errors=True)

    def stored(self) -> int:
        """Bytes of the repository's directory."""
        return sum(p.stat().st_size for p in self.local.rglob("*") if p.is_file())

    def version(self) -> str:
        words = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=False).stdout.split()
        return " ".join(words[:2]) or self.name

    def access(self) -> dict[str, str]:
        return {"RESTIC_REPOSITORY": self.repository, "RESTIC_PASSWORD": PASSWORD}

    def snapshots(self) -> list[str]:
        """Ids, the oldest first."""
        output = subprocess.run(self.listing(), env=self.env(), capture_output=True, text=True, check=True).stdout
        found = json.loads(output)
        # rustic groups them.
        if found and isinstance(found[0], list):
            found = [s for group in found for s in group[1]]
        elif found and "snapshots" in found[0]:
            found = [s for group in found for s in group["snapshots"]]
        return [s["id"] for s in sorted(found, key=lambda s: s["time"])]

    def init(self) -> list[str]:
        raise NotImplementedError

    def listing(self) -> list[str]:
        raise NotImplementedError

    def backup(self, tree: Path, exclude: str | None = None) -> list[str]:
        raise NotImplementedError

    def restore(self, snapshot: str, tree: Path) -> list[str]:
        raise NotImplementedError

    def check(self) -> list[str]:
        raise NotImplementedError

    def forget(self, snapshot: str) -> list[str]:
        raise NotImplementedError

    def prune(self) -> list[str]:
        raise NotImplementedError


class Holdfast(Program):
    name = "holdfast"

    def words(self, *words: str) -> list[str]:
        return [self.binary, "repo", *words]

    def init(self) -> list[str]:
        return self.words("init")

    def listing(self) -> list[str]:
        return self.words("snapshots", "--json")

    def backup(self, tree: Path, exclude: str | None = None) -> list[str]:
        return self.words("backup", str(tree), *(["--exclude", exclude] if exclude else []))

    def restore(self, snapshot: str, tree: Path) -> list[str]:
        return self.words("restore", f"{snapshot}:{tree}", "--target", str(self.target))

    def check(self) -> list[str]:
        return self.words("check", "--read-data")

    def forget(self, snapshot: str) -> list[str]:
        return self.words("forget", snapshot)

    def prune(self) -> list[str]:
        return self.words("prune", "--instant", "--max-unused", "0", "--allow-large-removal")


class Restic(Program):
    name = "restic"

    def words(self, *words: str) -> list[str]:
        return [self.binary, "--no-cache", *words]

    def version(self) -> str:
        output = subprocess.run([self.binary, "version"], capture_output=True, text=True, check=False).stdout
        return output.split(" compiled")[0]

    def init(self) -> list[str]:
        return self.words("init")

    def listing(self) -> list[str]:
        return self.words("snapshots", "--json")

    def backup(self, tree: Path, exclude: str | None = None) -> list[str]:
        return self.words("backup", str(tree), *(["--exclude", exclude] if exclude else []))

    def restore(self, snapshot: str, tree: Path) -> list[str]:
        return self.words("restore", f"{snapshot}:{tree}", "--target", str(self.target), "--overwrite", "if-changed")

    def check(self) -> list[str]:
        return self.words("check", "--read-data")

    def forget(self, snapshot: str) -> list[str]:
        return self.words("forget", snapshot)

    def prune(self) -> list[str]:
        return self.words("prune", "--max-unused", "0")


class Rustic(Program):
    name = "rustic"

    def words(self, *words: str) -> list[str]:
        return [self.binary, *words]

    def access(self) -> dict[str, str]:
        return {
            "RUSTIC_REPOSITORY": self.repository,
            "RUSTIC_PASSWORD": PASSWORD,
            "RUSTIC_NO_CACHE": "true",
            "RUSTIC_NO_PROGRESS": "true",
        }

    def init(self) -> list[str]:
        return self.words("init")

    def listing(self) -> list[str]:
        return self.words("snapshots", "--json")

    def backup(self, tree: Path, exclude: str | None = None) -> list[str]:
        return self.words("backup", str(tree), *(["--glob", f"!{exclude}"] if exclude else []))

    def restore(self, snapshot: str, tree: Path) -> list[str]:
        return self.words("restore", f"{snapshot}:{tree}", str(self.target))

    def check(self) -> list[str]:
        return self.words("check", "--read-data")

    def forget(self, snapshot: str) -> list[str]:
        return self.words("forget", snapshot)

    def prune(self) -> list[str]:
        return self.words("prune", "--max-unused", "0B", "--instant-delete")
