//! The notes on changes in `changelog.d`: each is a text, none is empty.

use std::path::Path;

use crate::Error;
use crate::workspace::{Problem, Workspace};

/// Checks every note.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    for name in workspace.files("changelog.d")? {
        if Path::new(&name).extension().is_none_or(|extension| extension != "md") {
            problems.push(Problem::new(&name, "is not a note: notes are named <subject>.md"));
        } else if workspace.read(&name)?.unwrap_or_default().trim().is_empty() {
            problems.push(Problem::new(&name, "is empty: say in a sentence or two what changes for a user"));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_stray_files_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(directory.path().to_path_buf());
        assert_eq!(check(&workspace).unwrap(), [], "no directory, no notes");
        workspace.write("changelog.d/good.md", "Backups can be made.\n").unwrap();
        workspace.write("changelog.d/empty.md", " \n").unwrap();
        workspace.write("changelog.d/stray.txt", "x").unwrap();
        let found: Vec<_> = check(&workspace).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("changelog.d/empty.md: is empty"), "{found:?}");
        assert!(found[1].starts_with("changelog.d/stray.txt: is not a note"), "{found:?}");
    }
}
