//! Asks a person for a password on the terminal, without showing it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::interrupt;
use crate::failure::{Failure, Result};

/// Longest password that is taken from a terminal, in bytes.
const LONGEST: usize = 4096;

/// Asks once.
pub(super) fn ask(question: &str) -> Result<SecretString> {
    // The terminal itself rather than standard input and output, which may lead elsewhere.
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| {
        Failure::usage(
            "no password was given, and there is no terminal to ask on",
            "name a file with --password-file or HOLDFAST_PASSWORD_FILE",
        )
    })?;
    let quiet = Quiet::new(&terminal).map_err(|e| broken(&e))?;
    let answer = terminal.write_all(question.as_bytes()).and_then(|()| read_line(&terminal));
    drop(quiet);
    let _ = terminal.write_all(b"\n");
    match answer.map_err(|e| broken(&e))? {
        Some(password) => Ok(password),
        None => Err(interrupt::interrupted()),
    }
}

/// Asks for a new password, and again until both answers agree.
pub(super) fn ask_twice() -> Result<SecretString> {
    let first = ask("new password: ")?;
    let second = ask("the same again: ")?;
    if first.expose_secret() == second.expose_secret() {
        return Ok(first);
    }
    Err(Failure::usage("the two passwords differ", "run the command again; nothing was made"))
}

fn broken(e: &std::io::Error) -> Failure {
    Failure::usage(format!("ask for the password on the terminal: {e}"), "name a file with --password-file")
}

/// A terminal that shows nothing and sends Ctrl-C as a character; as it was before when dropped.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: &File) -> std::io::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        // Without ISIG a Ctrl-C cannot end the process while the terminal still hides what is typed.
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that has gone away needs no repair.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Reads up to the line end; `None` for Ctrl-C or the end of input.
fn read_line(mut input: impl Read) -> std::io::Result<Option<SecretString>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = [0_u8];
    loop {
        if input.read(&mut byte)? == 0 {
            return Ok(None);
        }
        match byte {
            [b'\n' | b'\r'] => break,
            // Ctrl-C, and Ctrl-D.
            [0x03 | 0x04] => return Ok(None),
            // Backspace takes a whole character: its continuation bytes, then its first.
            [0x7f | 0x08] => while line.pop().is_some_and(|b| b & 0xc0 == 0x80) {},
            // Ctrl-U takes the line.
            [0x15] => line.clear(),
            [other] if line.len() < LONGEST => line.push(other),
            [_] => {}
        }
    }
    match std::str::from_utf8(&line) {
        Ok(text) => Ok(Some(SecretString::from(text))),
        Err(_) => Err(std::io::Error::other("the password is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(typed: &[u8]) -> Option<String> {
        read_line(typed).unwrap().map(|s| s.expose_secret().to_owned())
    }

    #[test]
    fn what_is_typed_is_taken_as_people_mean_it() {
        assert_eq!(line(b"secret\n").as_deref(), Some("secret"));
        assert_eq!(line(b"wrong\x15right\r").as_deref(), Some("right"));
        assert_eq!(line("aü\u{7f}b\n".as_bytes()).as_deref(), Some("ab"));
        assert_eq!(line(b"sec\x03"), None);
        assert_eq!(line(b"cut"), None);
    }
}
