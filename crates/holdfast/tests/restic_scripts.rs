//! Scripts written for restic, with `holdfast repo` in restic's place: flags, variables, passwords, exit codes, each
//! beside restic 0.19.1.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Long enough to be taken for a random one, whose key is quick to derive.
const PASSWORD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

/// A directory with a source tree in it, the current one of all commands.
struct Place(TempDir);

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Ours,
    Restic,
}
use Program::{Ours, Restic};

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.path("source/sub")).unwrap();
        fs::write(place.path("source/a"), "content of a").unwrap();
        fs::write(place.path("source/sub/b"), "content of b").unwrap();
        fs::write(place.path("password"), PASSWORD).unwrap();
        place
    }

    /// With a repository of ours in it.
    fn initialized() -> Self {
        let place = Self::new();
        place.ok(Ours, &["init"], &[]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program with nothing but these variables; the repository and the password file where none is named.
    fn run(&self, program: Program, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = match program {
            Ours => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
                command.arg("repo");
                command
            }
            Restic => Command::new(std::env::var("HOLDFAST_RESTIC_0_19").expect(
                "set HOLDFAST_RESTIC_0_19 to stock restic 0.19.1: `testbed restic 0.19.1` prints its path",
            )),
        };
        command
            .args(args)
            .env_clear()
            .env("TZ", "UTC")
            .env("PATH", "/usr/bin:/bin")
            .env("RESTIC_CACHE_DIR", self.path("cache"))
            .env("RESTIC_FEATURES", "device-id-for-hardlinks=true")
            .envs(variables.iter().copied().filter(|(name, _)| *name != "CWD"))
            .current_dir(
                self.path(variables.iter().find(|(name, _)| *name == "CWD").map_or("", |(_, at)| at)),
            )
            .stdin(Stdio::null());
        let names = |what: &str, flags: &[&str]| {
            variables.iter().any(|(name, _)| name.contains(what))
                || args.iter().any(|arg| flags.contains(arg))
        };
        if !names("RESTIC_REPOSITORY", &["-r", "--repo", "--repository-file"]) {
            command.env("RESTIC_REPOSITORY", "repository");
        }
        if !names("RESTIC_PASSWORD", &["-p", "--password-file", "--password-command"]) {
            command.env("RESTIC_PASSWORD_FILE", "password");
        }
        command.output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, program: Program, args: &[&str], variables: &[(&str, &str)]) -> String {
        let output = self.run(program, args, variables);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program:?} {args:?} {variables:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its last line, as JSON.
    fn json(&self, program: Program, args: &[&str], variables: &[(&str, &str)]) -> Value {
        let text = self.ok(program, &[&["--json"], args].concat(), variables);
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    /// Exit code of a command.
    fn code(&self, program: Program, args: &[&str], variables: &[(&str, &str)]) -> i32 {
        self.run(program, args, variables).status.code().unwrap()
    }
}

#[test]
fn the_same_password_file_opens_with_both() {
    let secret = format!("{PASSWORD}0123");
    let wide = format!("\u{feff} {secret} \n");
    let wide: Vec<u8> = wide.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [
        format!(" {secret}\t \r\n\n").into_bytes(),
        format!("\u{feff}{secret}\n").into_bytes(),
        format!("\u{a0}{secret}\u{2003}").into_bytes(),
        wide,
    ] {
        let place = Place::new();
        fs::write(place.path("file"), &bytes).unwrap();
        let password = ["-p", "file"];
        for (maker, user) in [(Ours, Restic), (Restic, Ours)] {
            let repository = ["--repo", if maker == Ours { "ours" } else { "theirs" }];
            let with = |what: &[&'static str]| [what, &repository, &password].concat();
            place.ok(maker, &with(&["init"]), &[]);
            place.ok(user, &with(&["cat", "config"]), &[]);
        }
        // A further key, and the one that replaces it.
        place.ok(Ours, &["init"], &[]);
        place.ok(Ours, &["key", "add", "--new-password-file", "file"], &[]);
        place.ok(Restic, &["cat", "config", "-p", "file"], &[]);
        place.ok(Ours, &["key", "passwd", "--new-password-file", "file"], &[]);
        assert_eq!(place.code(Restic, &["cat", "config"], &[]), 12);
    }
}

#[test]
fn a_repository_whose_password_has_blanks_around_still_opens() {
    let place = Place::new();
    // What `init` took from such a file before it trimmed it. Variables were never trimmed, by restic neither.
    let blanks = format!(" {PASSWORD} ");
    place.ok(Restic, &["init"], &[("RESTIC_PASSWORD", &blanks)]);
    place.ok(Ours, &["snapshots"], &[("RESTIC_PASSWORD", &blanks)]);
    fs::write(place.path("file"), format!("{blanks}\r\n")).unwrap();
    place.ok(Ours, &["snapshots", "-p", "file"], &[]);
    fs::write(place.path("file"), format!(" {blanks}\n")).unwrap();
    let output = place.run(Ours, &["snapshots", "-p", "file", "--json"], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("WrongPassword"));
}

#[test]
fn passwords_and_locations_come_from_where_restic_takes_them() {
    let place = Place::new();
    let print = "sh -c 'printf \" %s \\n\\n\" \"$(cat password)\"'";
    fs::write(place.path("location"), "\u{feff}  repository \n").unwrap();
    place.ok(Restic, &["init", "--password-command", print, "--repository-file", "location"], &[]);
    let variables = [("RESTIC_PASSWORD_COMMAND", print), ("RESTIC_REPOSITORY_FILE", "location")];
    for program in [Restic, Ours] {
        place.ok(program, &["snapshots"], &variables);
        place.ok(program, &["snapshots", "--password-command", print, "--repository-file", "location"], &[]);
        for (more, sense) in [
            ([("RESTIC_PASSWORD_FILE", "password")], "a file and a command"),
            ([("RESTIC_REPOSITORY", "repository")], "a location and a file of it"),
        ] {
            assert_ne!(place.code(program, &["snapshots"], &[&variables[..], &more].concat()), 0, "{sense}");
        }
        assert_eq!(place.code(program, &["snapshots", "--password-command", "false"], &[]), 1);
    }
    let from = [
        ("RESTIC_FROM_PASSWORD_COMMAND", print),
        ("RESTIC_FROM_REPOSITORY_FILE", "location"),
        ("RESTIC_REPOSITORY", "copies"),
    ];
    let key = [("RESTIC_PASSWORD", PASSWORD)];
    place.ok(Ours, &["init", "--copy-chunker-params"], &[&from[..], &key].concat());
    place.ok(Restic, &["cat", "config"], &[&from[2..], &key].concat());
}

#[test]
fn restics_global_flags_are_taken() {
    let place = Place::initialized();
    let all = [
        "--repo=repository",
        "--no-cache",
        "--cache-dir=elsewhere",
        "--cleanup-cache",
        "--pack-size=32",
        "--compression=max",
        "--key-hint=ffff",
        "--verbose=2",
        "-v",
    ];
    for program in [Restic, Ours] {
        place.ok(program, &[&["backup", "source"], &all[..]].concat(), &[]);
        place.ok(program, &[&all[..], &["snapshots", "-vv"]].concat(), &[("RESTIC_PACK_SIZE", "64")]);
        assert_eq!(place.ok(program, &["backup", "source", "-q"], &[]), "");
        for (args, variables) in [
            (["snapshots", "--compression=high"], [("RESTIC_HOST", "")]),
            (["snapshots", "--pack-size=129"], [("RESTIC_HOST", "")]),
            (["snapshots", "--no-cache"], [("RESTIC_COMPRESSION", "high")]),
        ] {
            assert_ne!(place.code(program, &args, &variables), 0, "{program:?} {args:?}");
        }
    }
}

#[test]
fn content_is_compressed_as_asked() {
    let place = Place::new();
    fs::write(place.path("source/much"), "many words again and again ".repeat(100_000)).unwrap();
    let stored = |more: &[&str], variables: &[(&str, &str)]| {
        let _ = fs::remove_dir_all(place.path("repository"));
        place.ok(Ours, &["init"], &[]);
        let report = place.json(Ours, &[&["backup", "source"], more].concat(), variables);
        report["data_added_packed"].as_u64().unwrap()
    };
    let auto = stored(&[], &[]);
    assert!(stored(&["--compression", "off"], &[]) > 10 * auto);
    assert!(stored(&[], &[("RESTIC_COMPRESSION", "off")]) > 10 * auto);
    assert!(stored(&["--compression", "auto"], &[("RESTIC_COMPRESSION", "off")]) < 2 * auto);
}

#[test]
fn a_hinted_key_opens_and_so_do_the_others() {
    let place = Place::initialized();
    fs::write(place.path("other"), format!("{PASSWORD}-other")).unwrap();
    place.ok(Ours, &["key", "add", "--new-password-file", "other"], &[]);
    for file in ["password", "other"] {
        let keys = place.json(Ours, &["key", "list", "-p", file], &[]);
        for key in keys.as_array().unwrap() {
            let hint = key["id"].as_str().unwrap();
            place.ok(Ours, &["snapshots", "-p", file, "--key-hint", hint], &[]);
            place.ok(Ours, &["snapshots", "-p", file], &[("RESTIC_KEY_HINT", hint)]);
        }
    }
}

#[test]
fn the_environments_host_counts_as_in_restic() {
    let place = Place::initialized();
    let host = [("RESTIC_HOST", "of-env")];
    for program in [Restic, Ours] {
        place.ok(program, &["backup", "source"], &host);
        place.ok(program, &["backup", "source", "--host", "of-flag"], &host);
    }
    let hosts = |program, more: &[&str]| -> Vec<String> {
        let all = place.json(program, &[&["snapshots"], more].concat(), &host);
        all.as_array().unwrap().iter().map(|s| s["hostname"].as_str().unwrap().to_owned()).collect()
    };
    for program in [Restic, Ours] {
        assert_eq!(hosts(program, &[]), ["of-env", "of-env"], "{program:?}");
        assert_eq!(hosts(program, &["--host", "of-flag"]), ["of-flag", "of-flag"], "{program:?}");
        assert_eq!(hosts(program, &["--host", ""]).len(), 4, "{program:?}");
        let groups = place.json(program, &["forget", "--keep-last", "1", "--dry-run"], &host);
        let groups = groups.as_array().unwrap();
        assert_eq!((groups.len(), &groups[0]["host"]), (1, &"of-env".into()), "{program:?}");
    }
    let latest = place.json(Ours, &["snapshots", "--latest", "1"], &host)[0]["id"].clone();
    let text = place.ok(Ours, &["ls", "latest", "--json"], &host);
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["id"], latest);
}

#[test]
fn exit_codes_are_restics() {
    let place = Place::initialized();
    fs::write(place.path("wrong"), "another").unwrap();
    // Holds a lock until its input ends.
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    let holder = command
        .args(["repo", "-r", "repository", "-p", "password", "backup", "--stdin"])
        .env_clear()
        .current_dir(place.0.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut holder = holder.spawn().unwrap();
    let locks = || fs::read_dir(place.path("repository/locks")).unwrap().map(|e| e.unwrap().file_name());
    while locks().all(|name| name.len() != 64) {
        assert_eq!(holder.try_wait().unwrap(), None, "ended before it had a lock");
        std::thread::yield_now();
    }
    for (args, expected) in [
        (vec!["snapshots", "-r", "nowhere"], 10),
        (vec!["backup", "source", "-r", "nowhere"], 10),
        (vec!["key", "passwd", "--new-password-file", "wrong"], 11),
        (vec!["snapshots", "-p", "wrong"], 12),
        (vec!["check", "-p", "wrong"], 12),
        (vec!["copy", "--from-repo", "nowhere", "--from-password-file", "password"], 10),
        (vec!["snapshots", "--latest", "x"], 1),
        (vec!["backup", "--what"], 1),
        (vec!["restore", "latest", "--target", "out"], 1),
    ] {
        for program in [Restic, Ours] {
            let output = place.run(program, &[&args[..], &["--json"]].concat(), &[]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(expected), "{program:?} {args:?}: {said}");
            // restic tells in words that it does not understand its arguments; ours are one line of JSON in any case.
            if program == Restic && said.lines().all(|line| !line.starts_with('{')) {
                assert_eq!(expected, 1, "{args:?}: {said}");
                continue;
            }
            let message: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
            let told = (&message["message_type"], &message["code"]);
            assert_eq!(told, (&"exit_error".into(), &expected.into()), "{program:?} {args:?}: {said}");
        }
    }
    holder.stdin.take().unwrap().write_all(b"content").unwrap();
    assert!(holder.wait().unwrap().success());
    // For people in words, and help is no failure.
    let output = place.run(Ours, &["backup", "--what"], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: unexpected argument '--what'"));
    assert!(place.ok(Ours, &["backup", "--json", "--help"], &[]).contains("--exclude-caches"));
}

/// Runs each of these backups with both programs, and compares what the snapshots hold and say. Not the ids of their
/// trees: Holdfast stores no names of owners.
fn same_snapshots(place: &Place, cases: &[(&str, &[&str])], variables: &[(&str, &str)]) {
    let absolute = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let (repository, password) = (absolute("repository"), absolute("password"));
    let held = |program: Program, directory: &str, args: &[&str]| {
        let all = [&["backup", "-r", &repository, "-p", &password, "--force", "--json"], args].concat();
        let output = place.run(program, &all, &[&[("CWD", directory)], variables].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program:?} in {directory}: {args:?}: {said}");
        let listing = place.ok(Restic, &["ls", "--json", "latest"], &[]);
        let mut lines: Vec<Value> = listing.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let snapshot = lines.remove(0);
        for line in &mut lines {
            // Others work in what lies above the place, too.
            if place.path("").parent().unwrap().starts_with(line["path"].as_str().unwrap()) {
                for time in ["atime", "mtime", "ctime"] {
                    line[time].take();
                }
            }
        }
        let mut paths = snapshot["paths"].as_array().unwrap().clone();
        paths.sort_by_key(Value::to_string);
        // restic names a path twice that two lists have.
        paths.dedup();
        (lines, paths)
    };
    for (directory, args) in cases {
        let (ours, theirs) = (held(Ours, directory, args), held(Restic, directory, args));
        assert_eq!(ours, theirs, "in {directory}: {args:?}");
    }
}

/// A place whose source has something for each way to leave files out.
fn with_much_to_leave_out() -> Place {
    let place = Place::initialized();
    for (name, content) in [
        ("a.log", "1"),
        ("keep.log", "2"),
        ("B.LOG", "3"),
        ("c.txt", "4"),
        (" lead", "5"),
        ("#hash", "6"),
        ("sub/d.Log", "7"),
        ("sub/deep/e.txt", "8"),
        ("sub/deep/.nobackup", "skip: yes"),
        ("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n"),
        ("cache/.nobackup", ""),
        ("cache/f", "9"),
    ] {
        let path = place.path("source").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::write(place.path("source/k"), vec![7; 1024]).unwrap();
    fs::write(place.path("source/k1"), vec![8; 1025]).unwrap();
    fs::write(place.path("source/Ärger"), "10").unwrap();
    std::os::unix::fs::symlink("a-name-that-is-rather-long", place.path("source/link")).unwrap();
    fs::write(place.path("patterns"), "# comment\n  *.log  \n\n!keep.log\n$PATTERN\nno$$thing\n").unwrap();
    fs::write(place.path("cases"), "\u{feff}*.lOG\nä*\n").unwrap();
    place
}

#[test]
fn the_same_is_left_out_as_by_restic() {
    let place = with_much_to_leave_out();
    let cases: Vec<(&str, &[&str])> = vec![
        (".", &["source", "--exclude", "deep", "--exclude", "", "--exclude-file", "patterns"]),
        (".", &["source", "--iexclude", "*.log", "--iexclude", "!KEEP.log", "--iexclude-file", "cases"]),
        (".", &["source", "--exclude-if-present", ".nobackup:skip"]),
        (".", &["source", "--exclude-if-present", ".nobackup", "--exclude-caches"]),
        (".", &["source", "--exclude-caches", "--exclude-larger-than", "1k"]),
    ];
    same_snapshots(&place, &cases, &[("PATTERN", "c.txt")]);
}

#[test]
fn what_is_named_is_never_left_out() {
    let place = with_much_to_leave_out();
    let cases: Vec<(&str, &[&str])> = vec![
        // As a shell makes it of `source/*`.
        (
            ".",
            &["source/a.log", "source/sub", "source/k1", "--exclude", "*.log", "--exclude-larger-than", "1K"],
        ),
        (".", &["source", "--exclude", "source"]),
        (".", &["source/cache/f", "source/cache/.nobackup", "--exclude-if-present", ".nobackup"]),
        (".", &["source", "source/a.log", "source/cache/f", "--exclude", "*.log", "--exclude-caches"]),
        // What was found in a directory that only dots name is left out as anything else.
        ("source/sub", &["..", "--exclude", "*.log", "--exclude-larger-than", "1k"]),
        ("source/cache", &[".", "--exclude-caches"]),
    ];
    same_snapshots(&place, &cases, &[]);
    for program in [Ours, Restic] {
        let code = place.code(program, &["backup", "--exclude", "*", "."], &[("CWD", "source/cache")]);
        assert_eq!(code, 1, "{program:?}: a snapshot of nothing");
    }
}

#[test]
fn lists_of_files_name_what_they_name_to_restic() {
    let place = with_much_to_leave_out();
    fs::write(place.path("globs"), "# comment\n  source/*.log \nsource/s?b\nsource/nothing*\nsource/[jk]\n")
        .unwrap();
    fs::write(place.path("lines"), "source/ lead\n\nsource/#hash\n").unwrap();
    fs::write(place.path("raw"), "source/c.txt\0source/ lead\0").unwrap();
    let cases: Vec<(&str, &[&str])> = vec![
        (".", &["--files-from", "globs"]),
        (".", &["--files-from-verbatim", "lines", "source/k"]),
        (".", &["--files-from-raw", "raw", "--files-from", "globs", "--files-from-verbatim", "lines"]),
    ];
    same_snapshots(&place, &cases, &[]);
    fs::write(place.path("cut-off"), "source/c.txt\0source/ le").unwrap();
    fs::write(place.path("empty"), "").unwrap();
    for program in [Ours, Restic] {
        for list in ["cut-off", "empty", "nowhere"] {
            let code = place.code(program, &["backup", "--files-from-raw", list], &[]);
            assert_eq!(code, 1, "{program:?} {list}");
        }
        assert_eq!(
            place.code(program, &["backup", "--stdin", "--files-from", "globs"], &[]),
            1,
            "{program:?}"
        );
    }
}

#[test]
fn relative_paths_lie_where_restic_puts_them() {
    let place = with_much_to_leave_out();
    let absolute = place.path("source/sub").to_str().unwrap().to_owned();
    let with_absolute = [&*absolute, "cache", "../source/k"];
    let cases: Vec<(&str, &[&str])> = vec![
        (".", &["./source/sub/../sub/deep/", "source/k"]),
        ("source", &["."]),
        ("source/sub/deep", &["..", "../../cache"]),
        ("source", &with_absolute),
        ("source", &["cache", "--exclude", "/cache"]),
    ];
    same_snapshots(&place, &cases, &[]);
    // Two of one name, and what is taken over from the snapshot before.
    fs::create_dir(place.path("source/sub/cache")).unwrap();
    fs::write(place.path("source/sub/cache/g"), "g").unwrap();
    same_snapshots(&place, &[("source/sub", &["cache", "../cache"])], &[]);
    let (repository, password) = (place.path("repository"), place.path("password"));
    let again =
        ["backup", "cache", "../cache", "-r", repository.to_str().unwrap(), "-p", password.to_str().unwrap()];
    let before = place.json(Ours, &again, &[("CWD", "source/sub")]);
    let after = place.json(Ours, &again, &[("CWD", "source/sub")]);
    assert_eq!(
        (&before["tree_blobs"], &after["dirs_new"], &after["files_new"]),
        (&0.into(), &0.into(), &0.into())
    );
}

/// Everything in the repository, by path and length.
fn everything(place: &Place) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    let mut below = vec![place.path("repository")];
    while let Some(directory) = below.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() { below.push(entry.path()) } else { all.push((entry.path(), meta.len())) }
        }
    }
    all.sort();
    all
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_would_be() {
    let place = Place::initialized();
    for repeated in [false, true] {
        let before = everything(&place);
        let dry = place.json(Ours, &["backup", "source", "-n"], &[]);
        assert_eq!(everything(&place), before);
        let theirs = place.json(Restic, &["backup", "source", "--dry-run"], &[]);
        assert_eq!((&dry["dry_run"], &dry["snapshot_id"]), (&theirs["dry_run"], &Value::Null));
        let real = place.json(Ours, &["backup", "source"], &[]);
        for field in ["files_new", "dirs_new", "data_blobs", "tree_blobs", "data_added", "data_added_packed"]
        {
            assert_eq!(dry[field], real[field], "{field}");
        }
        assert_eq!(dry["data_added"] == 0, repeated);
    }
    let said = place.ok(Ours, &["backup", "source", "--dry-run"], &[]);
    assert!(said.contains("nothing was written") && !said.contains("saved"), "{said}");
    let before = everything(&place);
    place.ok(Ours, &["backup", "-n", "--stdin-from-command", "--", "echo", "x"], &[]);
    assert_eq!(everything(&place), before);
}

#[test]
fn a_snapshot_that_would_be_the_same_is_skipped() {
    let place = Place::initialized();
    let args = ["backup", "source", "--skip-if-unchanged"];
    for program in [Restic, Ours] {
        let count = || place.json(Ours, &["snapshots"], &[]).as_array().unwrap().len();
        fs::write(place.path("source/a"), format!("for {program:?}")).unwrap();
        let before = count();
        let first = place.json(program, &args, &[]);
        assert!(first["snapshot_id"].is_string());
        let second = place.json(program, &args, &[]);
        assert_eq!((&second["snapshot_id"], count()), (&Value::Null, before + 1), "{program:?}");
    }
    assert!(place.ok(Ours, &args, &[]).contains("no snapshot was made"));
}

#[test]
fn time_and_parent_are_as_asked_for() {
    let place = Place::initialized();
    for program in [Ours, Restic] {
        let backup = |more: &[&str]| -> String {
            let report = place.json(program, &[&["backup", "source"], more].concat(), &[]);
            report["snapshot_id"].as_str().unwrap().to_owned()
        };
        let parent_of = |id: &str| {
            let snapshots = place.json(Restic, &["snapshots", id], &[]);
            (snapshots[0]["parent"].clone(), snapshots[0]["time"].clone())
        };
        let early = backup(&["--time", "2020-01-02 03:04:05", "--force"]);
        assert_eq!(parent_of(&early), (Value::Null, "2020-01-02T03:04:05Z".into()), "{program:?}");
        let late = backup(&[]);
        let named = backup(&["--parent", &early[..12]]);
        assert_eq!(parent_of(&named).0, early.as_str(), "{program:?}");
        assert_ne!(parent_of(&late).0, late.as_str());
        let between = backup(&["--time", "2021-01-02 03:04:05"]);
        assert_eq!(parent_of(&between).0, early.as_str(), "{program:?}: the others are newer");
        for bad in ["2021-01-02", "soon"] {
            assert_eq!(place.code(program, &["backup", "source", "--time", bad], &[]), 1);
        }
        for id in place.json(Ours, &["snapshots"], &[]).as_array().unwrap() {
            place.ok(Ours, &["forget", "--unsafe-allow-remove-all", id["id"].as_str().unwrap()], &[]);
        }
    }
}

#[test]
fn a_change_time_may_be_ignored() {
    let place = Place::initialized();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    let file = fs::File::options().write(true).open(place.path("source/a")).unwrap();
    file.set_modified(old).unwrap();
    place.ok(Ours, &["backup", "source/a"], &[]);
    let changed = |more: &[&str]| {
        let mut mode = fs::metadata(place.path("source/a")).unwrap().permissions();
        let bits = std::os::unix::fs::PermissionsExt::mode(&mode) ^ 0o010;
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, bits);
        fs::set_permissions(place.path("source/a"), mode).unwrap();
        place.json(Ours, &[&["backup", "source/a"], more].concat(), &[])["files_changed"].clone()
    };
    assert_eq!(changed(&[]), 1);
    assert_eq!(changed(&["--ignore-ctime"]), 0);
    // Another inode of the same content and times.
    let replace = || {
        fs::copy(place.path("source/a"), place.path("source/new")).unwrap();
        let file = fs::File::options().write(true).open(place.path("source/new")).unwrap();
        file.set_modified(old).unwrap();
        fs::rename(place.path("source/new"), place.path("source/a")).unwrap();
    };
    replace();
    assert_eq!(changed(&["--ignore-ctime"]), 1);
    replace();
    assert_eq!(changed(&["--ignore-inode"]), 0);
    // The new mode is stored all the same.
    let snapshot = place.json(Ours, &["backup", "source/a", "--ignore-inode"], &[]);
    let fresh = place.json(Ours, &["backup", "source/a", "--force"], &[]);
    let tree = |id: &Value| {
        let all = place.json(Ours, &["snapshots", id.as_str().unwrap()], &[]);
        all[0]["tree"].clone()
    };
    assert_eq!(tree(&snapshot["snapshot_id"]), tree(&fresh["snapshot_id"]));
}
