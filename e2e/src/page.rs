//! A page of the documentation as a person follows it: its commands and files, with their own values put in.

use crate::kubectl::{Failure, Result};

/// The page that is followed when a cluster is gone.
pub const DISASTER_RECOVERY: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/disaster-recovery.md"));

/// The block of code that contains a text, of a page in Markdown.
pub fn block(page: &str, containing: &str) -> Result<String> {
    // Between each two fences; the first line is the language.
    let blocks = page.split("\n```").skip(1).step_by(2);
    let code = blocks.filter_map(|block| block.split_once('\n').map(|(_language, code)| code));
    let mut found = code.filter(|code| code.contains(containing));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(format!("{one}\n")),
        (None, _) => Err(Failure(format!("the page has no code with {containing:?} any more"))),
        _ => Err(Failure(format!("the page has several blocks of code with {containing:?}"))),
    }
}

/// The command within a sentence that begins so, without its backticks.
pub fn inline(page: &str, beginning: &str) -> Result<String> {
    let from = page.find(&format!("`{beginning}"));
    let rest = from.and_then(|at| page.get(at + 1..));
    let end = rest.and_then(|rest| rest.split_once('`'));
    end.map(|(command, _)| command.to_owned())
        .ok_or_else(|| Failure(format!("the page has no command {beginning:?} any more")))
}

/// Puts values in for what the page has in their place. All of it has to be there.
pub fn filled(code: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut text = code.to_owned();
    for (place, value) in values {
        if !text.contains(place) {
            return Err(Failure(format!("there is no {place:?} to put a value in for, in:\n{code}")));
        }
        text = text.replace(place, value);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_by_what_it_says() {
        let page = "text\n\n```sh\nkubectl get a\nkubectl get b\n```\nuse `kubectl get c -o x`\n```yaml\nkind: a\n```\n";
        assert_eq!(block(page, "get b").unwrap(), "kubectl get a\nkubectl get b\n");
        assert_eq!(block(page, "kind").unwrap(), "kind: a\n");
        assert!(block(page, "get c").is_err(), "no block");
        assert!(block(page, "a").is_err(), "two of them");
        assert_eq!(inline(page, "kubectl get c").unwrap(), "kubectl get c -o x");
        assert!(inline(page, "kubectl get d").is_err());
        assert_eq!(filled("a b a", &[("a", "1"), ("b", "2")]).unwrap(), "1 2 1");
        assert!(filled("a b a", &[("c", "1")]).is_err());
    }
}
