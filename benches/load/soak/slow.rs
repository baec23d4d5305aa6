//! What becomes of a client that reads or sends one byte a second while versions change under it?

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::SOAK;
use super::asked::Asked;
use super::traffic::{Fail, Shared};
use crate::client::Failure;

/// Rows whose answer no socket's buffers hold: half a megabyte.
const READER_ROWS: usize = 32 * 1024;

/// What the reader's socket takes in before it is read.
const READER_BUFFER_BYTES: u32 = 4096;

/// Bytes that are read or sent one by one, a second apart, before the rest.
const SLOW_BYTES: usize = 15;

/// Between two of them.
const BYTE_PAUSE: Duration = Duration::from_secs(1);

/// How long the rest of an answer may take.
const REST_TIMEOUT: Duration = Duration::from_secs(30);

/// The most of an answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The names in reports.
const READER: &str = "reads 1 byte/s";
const SENDER: &str = "sends 1 byte/s";

fn broken(why: impl std::fmt::Display) -> Fail {
    Fail::Failed(Failure::Broken(why.to_string()))
}

/// A second, or less where clients shall end.
async fn pause(shared: &Shared) {
    let until = Instant::now() + BYTE_PAUSE;
    while Instant::now() < until && !shared.is_ending() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn open(address: SocketAddr, buffer: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks for a large answer again and again, and reads it a byte a second before the rest.
pub(super) async fn readers(shared: Arc<Shared>) {
    while !shared.is_ending() {
        note(&shared, READER, read_slowly(&shared).await);
    }
}

/// Asks again and again, the last bytes of the body a second apart.
pub(super) async fn senders(shared: Arc<Shared>) {
    while !shared.is_ending() {
        note(&shared, SENDER, send_slowly(&shared).await);
    }
}

fn note(shared: &Shared, name: &'static str, outcome: Result<(), Fail>) {
    shared.notes().due += 1;
    match outcome {
        Ok(()) => *shared.notes().good.entry(name).or_default() += 1,
        Err(fail) => shared.fail(name, &fail),
    }
}

async fn read_slowly(shared: &Shared) -> Result<(), Fail> {
    let mut stream = open(shared.http, Some(READER_BUFFER_BYTES)).await.map_err(broken)?;
    let asked = Asked { model: SOAK, pin: None, rows: READER_ROWS, first: 1 };
    let sent = shared.truth().send(false);
    stream.write_all(&asked.binary(shared.http)).await.map_err(broken)?;
    let mut answer = Vec::new();
    for _ in 0..SLOW_BYTES {
        let mut byte = [0];
        let read = tokio::time::timeout(REST_TIMEOUT, stream.read(&mut byte)).await;
        if read.map_err(|_| broken("not a byte of the answer came"))?.map_err(broken)? == 0 {
            return Err(broken("the server closed the connection under a slow reader"));
        }
        answer.push(byte[0]);
        pause(shared).await;
    }
    let body = read_answer(&mut stream, answer).await?;
    let shown = asked.shown_in_json(&body).map_err(Fail::Wrong)?;
    shared.truth().judge(&sent, shown, Instant::now()).map_err(Fail::Wrong)
}

async fn send_slowly(shared: &Shared) -> Result<(), Fail> {
    let mut stream = open(shared.http, None).await.map_err(broken)?;
    let asked = Asked { model: SOAK, pin: None, rows: 1, first: 2 };
    let request: Bytes = asked.json(shared.http);
    let (start, rest) = request.split_at(request.len().saturating_sub(SLOW_BYTES));
    let sent = shared.truth().send(false);
    stream.write_all(start).await.map_err(broken)?;
    let mut newest = sent.floor;
    for byte in rest {
        pause(shared).await;
        newest = shared.truth().newest();
        stream.write_all(&[*byte]).await.map_err(broken)?;
    }
    let body = read_answer(&mut stream, Vec::new()).await?;
    let shown = asked.shown_in_json(&body).map_err(Fail::Wrong)?;
    shared.truth().judge(&sent, shown, Instant::now()).map_err(Fail::Wrong)?;
    shared.notes().stale_slow += u64::from(shown.stamp < newest);
    Ok(())
}

/// The rest of an answer, of which `answer` is there already: its body. Fails where it is not 200.
async fn read_answer(stream: &mut TcpStream, mut answer: Vec<u8>) -> Result<Vec<u8>, Fail> {
    loop {
        if let Some((head, length)) = whole_head(&answer)?
            && answer.len() >= head + length
        {
            return Ok(answer[head..head + length].to_vec());
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(broken("the answer does not end"));
        }
        let read = tokio::time::timeout(REST_TIMEOUT, stream.read_buf(&mut answer)).await;
        if read.map_err(|_| broken("the answer does not go on"))?.map_err(broken)? == 0 {
            return Err(broken("the server closed the connection within its answer"));
        }
    }
}

/// The lengths of an answer's head and body, once the head is there. Fails where it is not 200.
fn whole_head(answer: &[u8]) -> Result<Option<(usize, usize)>, Fail> {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    if status != 200 {
        return Err(Fail::Failed(Failure::Http(status)));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let length = length.ok_or_else(|| broken("the answer does not say how long it is"))?;
    Ok(Some((end + 4, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_tell_where_the_body_ends() {
        let whole = |answer: &[u8]| whole_head(answer).ok().flatten();
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n"), None);
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), Some((38, 3)));
        assert!(whole_head(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
