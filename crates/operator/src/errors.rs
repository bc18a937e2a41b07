//! Errors as they are told: once, at the edge, with all their causes on one line.

use std::error::Error;
use std::fmt;

/// Shows an error and its causes, separated by colons.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.to_string();
        f.write_str(&shown)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries repeat their cause in their own message.
            if !shown.contains(&text) {
                write!(f, ": {text}")?;
                shown = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        below: Option<Box<Layer>>,
    }

    #[test]
    fn every_cause_is_told_once() {
        let root = Layer { text: "refused", below: None };
        let middle = Layer { text: "connect: refused", below: Some(Box::new(root)) };
        let top = Layer { text: "cannot read the storage", below: Some(Box::new(middle)) };
        assert_eq!(Chain(&top).to_string(), "cannot read the storage: connect: refused");
    }
}
