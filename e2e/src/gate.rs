//! A gate before the S3 server that a story opens, closes, and has refuse: troubles of a store for one story alone,
//! while all others go on. It speaks HTTP without TLS, to a server of its own over the same objects.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::install::Bed;
use crate::kubectl::{Failure, Result};

/// The machine as pods see it.
const MACHINE: &str = "10.77.0.1";
/// How long the server may take to start on a busy machine.
const START: Duration = Duration::from_secs(30);

/// What the gate does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Hands it on.
    Open,
    /// Answers every third with 503 `SlowDown`, and hands the others on.
    Storm,
    /// Says that the client's clock is wrong.
    ClockSkew,
    /// Closes the connection without an answer.
    Closed,
    /// Has no space left: refuses what is written with 507 `InsufficientStorage`, but for small things such as locks.
    Full,
}

/// What still finds room in a full store, in bytes.
const SMALL: u64 = 4096;

/// A running gate; it ends when it is dropped.
pub struct Gate {
    /// `http://address:port`, for a storage's `endpoint`.
    pub endpoint: String,
    shared: Arc<Shared>,
    server: Child,
}

struct Shared {
    mode: AtomicU32,
    requests: AtomicU32,
    refused: AtomicUsize,
    server: SocketAddr,
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        self.shared.mode.store(Mode::Closed as u32, Ordering::SeqCst);
    }
}

impl Gate {
    /// An open gate before the bed's buckets.
    pub fn open(bed: &Bed) -> Result<Self> {
        let failed = |what: &str, e: io::Error| Failure(format!("the gate cannot {what}: {e}"));
        // A port that is free now.
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| failed("bind", e))?;
        let server = Command::new(bed.programs()?.join("versitygw"))
            .args(["--port", &port.to_string(), "--region", "us-east-1", "--quiet", "posix"])
            .arg(bed.bucket_directory("")?)
            .env("ROOT_ACCESS_KEY", &bed.access_key)
            .env("ROOT_SECRET_KEY", &bed.secret_key)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| failed("start its server", e))?;
        let listener = TcpListener::bind((MACHINE, 0)).map_err(|e| failed("listen", e))?;
        let address = listener.local_addr().map_err(|e| failed("listen", e))?;
        let shared = Arc::new(Shared {
            mode: AtomicU32::new(Mode::Open as u32),
            requests: AtomicU32::new(0),
            refused: AtomicUsize::new(0),
            server: port,
        });
        let gate = Self { endpoint: format!("http://{address}"), shared: Arc::clone(&shared), server };
        let begun = Instant::now();
        while TcpStream::connect(port).is_err() {
            if begun.elapsed() > START {
                return Err(Failure("the gate's server does not answer".into()));
            }
            thread::sleep(Duration::from_millis(50));
        }
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // Whoever hangs up in the middle ends its own connection only.
                thread::spawn(move || shared.serve(&stream));
            }
        });
        Ok(gate)
    }

    /// What happens to requests from now on.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u32, Ordering::SeqCst);
    }

    /// Requests that were not handed on so far.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn mode(&self) -> Mode {
        let now = self.mode.load(Ordering::SeqCst);
        let all = [Mode::Open, Mode::Storm, Mode::ClockSkew, Mode::Closed, Mode::Full];
        all.into_iter().find(|mode| *mode as u32 == now).unwrap_or(Mode::Closed)
    }

    /// The refusal of a request, if it is refused.
    fn refusal(&self, request: &Head) -> Option<(&'static str, &'static str)> {
        match self.mode() {
            Mode::Full if request.bytes.starts_with(b"PUT ") && request.length > Some(SMALL) => {
                Some(("507 Insufficient Storage", "InsufficientStorage"))
            }
            Mode::ClockSkew => Some(("403 Forbidden", "RequestTimeTooSkewed")),
            Mode::Storm if self.requests.fetch_add(1, Ordering::SeqCst) % 3 == 2 => {
                Some(("503 Service Unavailable", "SlowDown"))
            }
            _ => None,
        }
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut near = BufReader::new(stream.try_clone()?);
        let mut answer = stream;
        let far = TcpStream::connect(self.server)?;
        let mut server = BufReader::new(far.try_clone()?);
        let mut far = &far;
        while let Some(request) = Head::read(&mut near)? {
            if self.mode() == Mode::Closed {
                self.refused.fetch_add(1, Ordering::SeqCst);
                return stream.shutdown(Shutdown::Both);
            }
            if let Some((status, code)) = self.refusal(&request) {
                self.refused.fetch_add(1, Ordering::SeqCst);
                io::copy(&mut near.by_ref().take(request.length.unwrap_or(0)), &mut io::sink())?;
                let body = format!("<Error><Code>{code}</Code><Message>said by the gate</Message></Error>");
                write!(answer, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
                continue;
            }
            far.write_all(&request.bytes)?;
            io::copy(&mut near.by_ref().take(request.length.unwrap_or(0)), &mut far)?;
            let Some(response) = Head::read(&mut server)? else { break };
            answer.write_all(&response.bytes)?;
            if request.bodiless {
                continue;
            }
            match response.length {
                Some(length) => drop(io::copy(&mut server.by_ref().take(length), &mut answer)?),
                None if response.chunked => copy_chunks(&mut server, &mut answer)?,
                None => {}
            }
        }
        stream.shutdown(Shutdown::Both)
    }
}

/// The head of a request or an answer.
struct Head {
    bytes: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
    /// The answer to it has no body, whatever length it tells.
    bodiless: bool,
}

impl Head {
    /// The next one; `None` when the other side has no more to say.
    fn read(from: &mut impl io::BufRead) -> io::Result<Option<Self>> {
        let mut head = Self { bytes: Vec::new(), length: None, chunked: false, bodiless: false };
        loop {
            let mut line = Vec::new();
            if from.read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            head.bodiless |= head.bytes.is_empty() && line.starts_with(b"HEAD ");
            head.bytes.extend_from_slice(&line);
            let text = String::from_utf8_lossy(&line).to_ascii_lowercase();
            if let Some(value) = text.strip_prefix("content-length:") {
                head.length = value.trim().parse().ok();
            }
            head.chunked |= text.starts_with("transfer-encoding:") && text.contains("chunked");
            if line == b"\r\n" {
                return Ok(Some(head));
            }
        }
    }
}

/// Hands on a body in chunks, its end included.
fn copy_chunks(from: &mut impl io::BufRead, to: &mut impl Write) -> io::Result<()> {
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        to.write_all(line.as_bytes())?;
        let size = line.trim().split(';').next().and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let size = size.ok_or_else(|| io::Error::other("no size of a chunk"))?;
        io::copy(&mut from.by_ref().take(size + 2), to)?;
        if size == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_chunks_are_read_to_their_end() {
        let text: &[u8] = b"PUT /b/k HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcHEAD /b HTTP/1.1\r\n\r\n";
        let mut from = BufReader::new(text);
        let head = Head::read(&mut from).unwrap().unwrap();
        assert_eq!((head.length, head.bodiless, head.chunked), (Some(3), false, false));
        io::copy(&mut from.by_ref().take(3), &mut io::sink()).unwrap();
        assert!(Head::read(&mut from).unwrap().unwrap().bodiless);
        assert!(Head::read(&mut from).unwrap().is_none());

        let body = b"3\r\nabc\r\n0\r\n\r\nrest";
        let (mut from, mut to) = (BufReader::new(body.as_slice()), Vec::new());
        copy_chunks(&mut from, &mut to).unwrap();
        assert_eq!(to, b"3\r\nabc\r\n0\r\n\r\n");
    }
}
