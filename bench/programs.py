"""The programs that are compared, each with its own words for the same work.

No program keeps a cache between commands: what one has on disk the other would have to fetch. All else is as it comes.
"""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

# As long as the operator makes them.
PASSWORD = "0123456789abcdef" * 4


class Program:
    """A backup program with a repository of its own below the work directory."""

    name: str
    # Whether what it restores has the times of its source.
    keeps_times = True

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

    def kept(self) -> list[Path]:
        """What the program leaves on this machine, besides its repository and what it restored."""
        return []

    def drop_cache(self) -> None:
        """Removes what a command has kept for the next one besides the repository."""

    def clear(self) -> None:
        for path in (self.local, self.target, *self.kept()):
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
        return [s["id"] for s in sorted(found, key=self.when)]

    def when(self, snapshot: dict) -> str:
        return snapshot["time"]

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

    def prune(self) -> list[str] | None:
        """None where the program does not remove half of each pack at once."""
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
        return self.words("restore", f"{snapshot}:{tree}", "--target", str(self.target), "--overwrite", "if-changed")

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


class Kopia(Program):
    """Another format, so its sizes and its way of splitting files are its own. It compresses only when told to."""

    name = "kopia"
    # A directory gets the time of its newest entry, a link one in microseconds; holes and hard links are lost, besides.
    keeps_times = False

    def words(self, *words: str) -> list[str]:
        return [self.binary, *words]

    def version(self) -> str:
        output = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=False).stdout
        return f"kopia {output.split(' ')[0]}"

    def kept(self) -> list[Path]:
        return [self.work / "kopia"]

    def drop_cache(self) -> None:
        # It cannot do without: told to keep none, it ends with a panic.
        shutil.rmtree(self.work / "kopia" / "cache", ignore_errors=True)

    def access(self) -> dict[str, str]:
        kept = self.work / "kopia"
        return {
            "KOPIA_PASSWORD": PASSWORD,
            "KOPIA_CONFIG_PATH": str(kept / "repository.config"),
            "KOPIA_CACHE_DIRECTORY": str(kept / "cache"),
            "KOPIA_LOG_DIR": str(kept / "log"),
            "KOPIA_CHECK_FOR_UPDATES": "false",
        }

    def init(self) -> list[str]:
        # It needs to be told where the repository is only once. Maintenance would run within the commands otherwise.
        create = [self.binary, "repository", "create", *self.location(), "--no-persist-credentials"]
        compress = [self.binary, "policy", "set", "--global", "--compression=zstd"]
        manual = [self.binary, "maintenance", "set", "--enable-quick=false", "--enable-full=false"]
        return ["sh", "-ec", "; ".join(shlex.join(command) for command in (create, compress, manual))]

    def location(self) -> list[str]:
        if self.repository == str(self.local):
            return ["filesystem", "--path", self.repository]
        return shlex.split(self.repository)

    def listing(self) -> list[str]:
        return self.words("snapshot", "list", "--all", "--json")

    def when(self, snapshot: dict) -> str:
        return snapshot["startTime"]

    def backup(self, tree: Path, exclude: str | None = None) -> list[str]:
        return self.words("snapshot", "create", "--no-progress", str(tree))

    def restore(self, snapshot: str, tree: Path) -> list[str]:
        # Without a time it takes the latest of a directory.
        source = str(tree) if snapshot == "latest" else snapshot
        return self.words("snapshot", "restore", "--no-progress", source, str(self.target))

    def check(self) -> list[str]:
        return self.words("snapshot", "verify", "--verify-files-percent=100")

    def prune(self) -> None:
        return None
