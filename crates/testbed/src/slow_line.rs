//! A line with latency: a proxy on the loopback that hands on each piece of data some time after it came. A machine
//! without the kernel's network emulator can so measure and test as if the store were far away.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Pieces on their way in one direction of one connection: 16 MiB, more than a line of 20 ms holds at 5 Gbit/s.
const PIECES: usize = 256;
/// Bytes of a piece at most.
const PIECE: usize = 64 * 1024;

/// Connections to `listen` go to `to`; each byte needs half of `round_trip` more in either direction. Bandwidth is
/// not limited. Runs until the listener fails.
pub fn slow_line(listen: SocketAddr, to: SocketAddr, round_trip: Duration) -> Result<()> {
    let at = |action| move |source| Error::File { action, path: listen.to_string().into(), source };
    let listener = TcpListener::bind(listen).map_err(at("listen on"))?;
    loop {
        let (near, _) = listener.accept().map_err(at("accept a connection on"))?;
        // Who cannot be reached now is told so by a closed connection, as over any line.
        if let Ok(far) = TcpStream::connect(to) {
            carry(&near, &far, round_trip / 2);
            carry(&far, &near, round_trip / 2);
        }
    }
}

/// Hands on what comes from one to the other, in threads that end with either.
fn carry(from: &TcpStream, to: &TcpStream, delay: Duration) {
    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let (sender, receiver) = sync_channel(PIECES);
    thread::spawn(move || take(from, &sender, delay));
    thread::spawn(move || give(&to, &receiver));
}

fn take(mut from: TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length) = from.read(&mut buffer) {
        let Some(piece) = buffer.get(..length).filter(|p| !p.is_empty()) else { return };
        if pieces.send((Instant::now() + delay, piece.to_owned())).is_err() {
            return;
        }
    }
}

fn give(mut to: &TcpStream, pieces: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, piece)) = pieces.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    // The other end said all it had to say.
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_in_order_and_late() {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = echo.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        thread::spawn(move || slow_line(listen, to, Duration::from_millis(60)));
        let begun = Instant::now();
        let mut stream = loop {
            match TcpStream::connect(listen) {
                Ok(stream) => break stream,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error}"),
            }
        };
        let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let asked = Instant::now();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == sent);
        // Never sooner; how much later is the machine's affair.
        assert!(asked.elapsed() >= Duration::from_millis(60));
    }
}
