//! Rules for source files and crates: size, names, the first line, inherited lints.

use std::path::Path;

use crate::Error;
use crate::workspace::{Problem, Workspace};

/// Longest source file, in lines. A longer one has more than one subject.
const MAX_LINES: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "misc"];

/// Where sources are.
const ROOTS: [&str; 3] = ["crates", "e2e", "xtask"];

/// The one crate that may have `unsafe`. A lint that is forbidden cannot be allowed again, so its table of lints is
/// a copy of the workspace's, with this one line changed, and what belongs to `unsafe` added.
const MAY_BE_UNSAFE: &str = "crates/simd/Cargo.toml";
const FORBIDDEN: &str = "unsafe_code = \"forbid\"";
const DENIED: &str = "unsafe_code = \"deny\"";
const DOCUMENTED: &str = "undocumented_unsafe_blocks = \"warn\"";

/// Checks every source file and every crate.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    for root in ROOTS {
        for name in workspace.files(root)? {
            let file = Path::new(&name);
            if file.file_name().is_some_and(|f| f == "Cargo.toml") {
                let manifest = workspace.read(&name)?.unwrap_or_default();
                if name == MAY_BE_UNSAFE {
                    let root = workspace.read("Cargo.toml")?.unwrap_or_default();
                    problems.extend(judge_copied_lints(&root, &manifest));
                } else if manifest.contains("[package]") && !inherits_lints(&manifest) {
                    problems.push(Problem::new(
                        &name,
                        "does not inherit the lints of the workspace; add:\n    [lints]\n    workspace = true",
                    ));
                }
            }
            if file.extension().is_some_and(|extension| extension == "rs") {
                problems.extend(judge(&name, &workspace.read(&name)?.unwrap_or_default()));
            }
        }
    }
    Ok(problems)
}

fn judge(name: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        problems.push(Problem::new(
            name,
            format!("has {lines} lines, {MAX_LINES} are the limit: split it by subject"),
        ));
    }
    let stem = Path::new(name).with_extension("");
    for part in stem.iter().filter_map(|part| part.to_str()) {
        if EMPTY_NAMES.contains(&part) {
            problems.push(Problem::new(
                name,
                format!("`{part}` says nothing about what is inside: name it after its subject"),
            ));
        }
    }
    // Tests in a file beside what they test need no introduction.
    let beside = stem
        .file_name()
        .and_then(|stem| stem.to_str())
        .is_some_and(|stem| stem == "tests" || stem.ends_with("_tests"));
    if !beside && !text.starts_with("//!") {
        problems.push(Problem::new(
            name,
            "must begin with a line `//!` that says what it is responsible for, and what not",
        ));
    }
    problems
}

/// Holds the copy of the workspace's lints against the original.
fn judge_copied_lints(root: &str, manifest: &str) -> Vec<Problem> {
    let mut expected = lint_lines(root, "[workspace.lints.");
    for line in &mut expected {
        if line == FORBIDDEN {
            DENIED.clone_into(line);
        }
    }
    let mut found = lint_lines(manifest, "[lints.");
    found.retain(|line| line != DOCUMENTED);
    if expected == found && manifest.lines().any(|line| line == DOCUMENTED) {
        return Vec::new();
    }
    let message = format!(
        "its lints are not the workspace's with {DENIED:?} and {DOCUMENTED:?}: copy the table of /Cargo.toml again"
    );
    vec![Problem::new(MAY_BE_UNSAFE, message)]
}

/// The lines that set lints, of the sections whose headings begin with `heading`, in their order.
fn lint_lines(manifest: &str, heading: &str) -> Vec<String> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.starts_with(heading);
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// Whether the section `[lints]` of a manifest says `workspace = true`, or the manifest `lints.workspace = true`.
fn inherits_lints(manifest: &str) -> bool {
    let mut inside = false;
    manifest.lines().map(|line| line.split_whitespace().collect::<String>()).any(|line| {
        if line.starts_with('[') {
            inside = line == "[lints]";
        }
        (inside && line == "workspace=true") || line == "lints.workspace=true"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_what_breaks_it() {
        assert_eq!(judge("crates/api/src/names.rs", "//! Names.\n"), []);
        assert_eq!(judge("crates/api/src/names.rs", &"//!\n".repeat(800)), []);
        assert_eq!(judge("crates/api/src/names/tests.rs", "use super::*;\n"), []);
        assert_eq!(judge("crates/api/src/names_tests.rs", "use super::*;\n"), []);
        for (name, text, expected) in [
            ("crates/api/src/names.rs", "//!\n".repeat(801), "has 801 lines"),
            ("crates/api/src/names.rs", "fn main() {}\n".to_owned(), "must begin with"),
            ("crates/api/src/utils.rs", "//! Bits.\n".to_owned(), "`utils` says nothing"),
            ("crates/api/src/common/mod.rs", "//! Bits.\n".to_owned(), "`common` says nothing"),
        ] {
            let found = judge(name, &text);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].to_string().contains(expected), "{found:?}");
        }
    }

    #[test]
    fn the_copied_lints_may_differ_in_unsafe_only() {
        let root = "[workspace.lints.rust]\nunsafe_code = \"forbid\"\n# why\ntodo = \"warn\"\n[profile.release]\nx = 1\n";
        let copy = "[package]\n[lints.rust]\nunsafe_code = \"deny\"\ntodo = \"warn\"\nundocumented_unsafe_blocks = \"warn\"\n";
        assert_eq!(judge_copied_lints(root, copy), []);
        for broken in [
            copy.replace("deny", "allow"),
            copy.replace("todo = \"warn\"\n", ""),
            copy.replace("todo = \"warn\"", "todo = \"allow\""),
            copy.replace("undocumented_unsafe_blocks = \"warn\"\n", ""),
            "[lints]\nworkspace = true\n".to_owned(),
        ] {
            assert_eq!(judge_copied_lints(root, &broken).len(), 1, "{broken}");
        }
    }

    #[test]
    fn only_the_lints_section_counts() {
        assert!(inherits_lints("[package]\nname = \"a\"\n[lints]\nworkspace = true\n"));
        assert!(inherits_lints("[lints]\n# why\nworkspace=true\n[dependencies]\n"));
        assert!(inherits_lints("lints.workspace = true\n"));
        for manifest in [
            "[package]\n",
            "[lints]\nworkspace = false\n",
            "[lints.clippy]\nworkspace = true\n",
            "[lints]\n[dependencies]\nworkspace = true\n",
            "# [lints]\nversion.workspace = true\n",
        ] {
            assert!(!inherits_lints(manifest), "{manifest}");
        }
    }
}
