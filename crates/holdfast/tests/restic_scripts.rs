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
            .envs(variables.iter().copied())
            .current_dir(self.0.path())
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
