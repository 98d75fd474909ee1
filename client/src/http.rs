//! A plain HTTP GET, for agents' pages. What comes back is bounded, whatever the other side sends.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;

/// How long one answer may take at most.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const BODY_BYTES_MAX: usize = 8 << 20;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// Which run of a process a log is of, where an agent says so.
    pub(crate) run: Option<u32>,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as a short text for people.
    pub(crate) fn words(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.body).chars().take(300).collect();
        let text = crate::table::clean(&text);
        if text.is_empty() { format!("HTTP status {}", self.status) } else { text }
    }
}

/// Gets `path` (with its query) from `address`, within some time.
pub(crate) async fn get(address: &str, path: &str, within: Duration) -> Result<Answer, String> {
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(address).await.map_err(|why| why.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|why| why.to_string())?;
        let request = hyper::Request::get(path)
            .header(hyper::header::HOST, address)
            .header(hyper::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|why| why.to_string())?;
        let answer = async {
            let reply = sender.send_request(request).await.map_err(|why| why.to_string())?;
            let status = reply.status().as_u16();
            let run = reply.headers().get("x-log-run").and_then(|run| run.to_str().ok()?.parse().ok());
            let body = Limited::new(reply.into_body(), BODY_BYTES_MAX)
                .collect()
                .await
                .map_err(|why| why.to_string())?;
            Ok(Answer { status, run, body: body.to_bytes() })
        };
        // The connection moves the bytes that the answer waits for.
        tokio::pin!(connection, answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(why) => Err(why.to_string()),
            },
        }
    };
    match tokio::time::timeout(within, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {}", crate::duration::words(within))),
    }
}

/// One segment of a path: everything but letters, digits, `-`, `_`, `.` and `~` is escaped.
pub(crate) fn segment(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn fetch(reply: &'static [u8]) -> Result<(u16, Vec<u8>), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                stream.write_all(reply).await.unwrap();
                String::from_utf8_lossy(&request[..read]).into_owned()
            });
            let answer = get(&address, "/tasks/x?offset=0", ANSWER_MAX).await;
            assert!(server.await.unwrap().starts_with("GET /tasks/x?offset=0 HTTP/1.1\r\n"));
            answer.map(|answer| (answer.status, answer.body.to_vec()))
        })
    }

    #[test]
    fn answers_are_read_and_nonsense_is_an_error() {
        assert_eq!(fetch(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"), Ok((200, b"abc".to_vec())));
        let chunked = b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        assert_eq!(fetch(chunked), Ok((404, b"ab".to_vec())));
        assert_eq!(fetch(b"HTTP/1.1 200 OK\r\n\r\nto the end"), Ok((200, b"to the end".to_vec())));
        assert!(fetch(b"\xff\x00 nonsense\r\n\r\n").is_err());
        assert!(fetch(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").is_err(), "cut short");
    }

    #[test]
    fn segments_are_escaped() {
        assert_eq!(segment("web server/../1"), "web%20server%2F..%2F1");
    }
}
