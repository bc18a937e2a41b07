//! Links from the documents to files of the project: each has to lead to something. Links to elsewhere are not
//! followed.

use std::path::{Component, Path, PathBuf};

use crate::Error;
use crate::workspace::{Problem, Workspace};

/// Documents at the root; those below `docs` are all taken.
const ROOT_DOCUMENTS: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

/// Checks the links of every document.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Problem>, Error> {
    let mut documents: Vec<String> = ROOT_DOCUMENTS.map(str::to_owned).to_vec();
    documents.extend(
        workspace
            .files("docs")?
            .into_iter()
            .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md")),
    );
    let mut problems = Vec::new();
    for document in &documents {
        let Some(text) = workspace.read(document)? else { continue };
        for (line, target) in links(&text) {
            let Some(file) = local(document, target) else { continue };
            if !workspace.path("").join(&file).exists() {
                problems.push(Problem::new(
                    format!("{document}:{line}"),
                    format!("the link leads to {}, which does not exist", file.display()),
                ));
            }
        }
    }
    Ok(problems)
}

/// The targets of `[text](target)` and their lines, outside of code.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        // Every second piece lies between two backticks.
        for prose in line.split('`').step_by(2) {
            let mut rest = prose;
            while let Some((_, after)) = rest.split_once("](") {
                let Some((target, after)) = after.split_once(')') else { break };
                found.push((index + 1, target.split_whitespace().next().unwrap_or_default()));
                rest = after;
            }
        }
        // A link whose text is code, [`name`](target), falls apart above.
        let mut rest = line;
        while let Some((_, after)) = rest.split_once("`](") {
            let Some((target, after)) = after.split_once(')') else { break };
            found.push((index + 1, target.split_whitespace().next().unwrap_or_default()));
            rest = after;
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The file that a link leads to, from the root; none for links to elsewhere and within the document.
fn local(document: &str, target: &str) -> Option<PathBuf> {
    let path = target.split('#').next().unwrap_or_default();
    if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
        return None;
    }
    let mut file = PathBuf::new();
    if let Some(from_root) = path.strip_prefix('/') {
        file.push(from_root);
        return Some(file);
    }
    file.extend(Path::new(document).parent());
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => {
                file.pop();
            }
            Component::CurDir => {}
            other => file.push(other),
        }
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_prose_only() {
        let text = "See [a](a.md) and [`b`](b/c.md#x \"title\").\n```\n[no](x.md)\n```\n`[no](y.md)` [c](https://e.x/)\n";
        assert_eq!(links(text), [(1, "a.md"), (1, "b/c.md#x"), (5, "https://e.x/")]);
    }

    #[test]
    fn dead_links_are_named_with_their_line() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(directory.path().to_path_buf());
        workspace
            .write(
                "README.md",
                "[ok](docs/a.md#part) [web](https://example.org)\n\n[dead](docs/missing.md)\n",
            )
            .unwrap();
        workspace.write("docs/a.md", "[up](../README.md) [here](#part) [dir](.) [dead](b.md)\n").unwrap();
        let found: Vec<_> = check(&workspace).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "README.md:3: the link leads to docs/missing.md, which does not exist",
                "docs/a.md:1: the link leads to docs/b.md, which does not exist",
            ]
        );
    }
}
