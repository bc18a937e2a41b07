//! A yes or no from a person on a terminal; never from a pipe.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use super::interrupt::Interrupt;
use crate::exit;
use crate::failure::{Failure, Result};

/// Whether there is a person to ask.
pub(super) fn somebody_is_there() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks; anything but a clear yes is a no, and so is Ctrl-C.
pub(super) async fn ask(question: &str, interrupt: &mut Interrupt) -> Result<bool> {
    let mut err = std::io::stderr();
    let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    tokio::select! {
        answer = answer => match answer {
            Ok(Ok(line)) => Ok(is_yes(&line)),
            Ok(Err(e)) => Err(broken(&e.to_string())),
            Err(e) => Err(broken(&e.to_string())),
        },
        () = interrupt.next() => {
            let _ = writeln!(err);
            Ok(false)
        }
    }
}

fn broken(e: &str) -> Failure {
    Failure {
        cause: format!("read the answer from the terminal: {e}"),
        advice: Some("give --yes to go on without being asked".to_owned()),
        kind: "Input",
        code: exit::FATAL,
    }
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::is_yes;

    #[test]
    fn only_yes_is_yes() {
        assert!(["y\n", "Y\n", "yes\r\n", " YES "].iter().all(|line| is_yes(line)));
        assert!(["", "\n", "n", "yess", "ja", "yes no"].iter().all(|line| !is_yes(line)));
    }
}
