//! A blocking HTTP/1.1 client that sends exactly the bytes it is told to, good or bad.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than the shop lets any request wait, and than a stream may be silent.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long the next event of a stream is waited for that shows signs of life.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

impl Response {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// The token of what was written.
    #[track_caller]
    pub fn position(&self) -> String {
        let token = self.header("x-stream-position").unwrap_or_else(|| panic!("no position: {self:?}"));
        let url_safe = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        assert!(!token.is_empty() && token.bytes().all(url_safe), "{token} is not URL-safe");
        token.to_owned()
    }

    /// Checks an error answer and gives its message.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{code} expected: {self:?}");
        let body = self.json();
        let error = &body["error"];
        assert_eq!(error["code"], code, "{body}");
        assert!(error["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
        let message = error["message"].as_str().unwrap_or_else(|| panic!("no message: {body}"));
        assert!(!message.is_empty() && !message.contains("panicked"), "{body}");
        assert!(self.header("content-type").is_some_and(|t| t.starts_with("application/json")), "{self:?}");
        assert!(self.header("x-stream-position").is_none(), "a refusal wrote something: {self:?}");
        message.to_owned()
    }

    /// Checks the status of a good answer and gives its JSON.
    #[track_caller]
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.header("content-type").is_some_and(|t| t.starts_with("application/json")), "{self:?}");
        self.json()
    }
}

/// A kept-alive connection.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).expect("the shop listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Connection { stream, input: Vec::new() }
    }

    /// Sends bytes. The shop may have closed the connection already; then reading tells.
    pub fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        match self.stream.write_all(bytes.as_ref()) {
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            result => result.expect("a write"),
        }
    }

    /// Sends a request; a body is JSON unless `headers` name another type.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: shop\r\n");
        if !body.is_empty() {
            request += &format!("content-length: {}\r\n", body.len());
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                request += "content-type: application/json\r\n";
            }
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        let mut bytes = (request + "\r\n").into_bytes();
        bytes.extend_from_slice(body);
        self.send_raw(bytes);
    }

    /// Reads an answer.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.maybe_response().expect("the connection was closed without an answer")
    }

    /// Reads an answer, or `None` if the connection is closed instead.
    pub fn maybe_response(&mut self) -> Option<Response> {
        let mut response = self.head()?;
        if response.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk()? {
                response.body.extend(chunk);
            }
        } else {
            let length = response.header("content-length").map_or(0, |l| l.parse().expect("a number"));
            response.body = self.take(length)?;
        }
        Some(response)
    }

    /// Reads the answer to a HEAD: all but a body.
    pub fn head(&mut self) -> Option<Response> {
        let end = loop {
            match self.input.windows(4).position(|w| w == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more()?,
            }
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let head = String::from_utf8(head).expect("a head of ASCII");
        let mut lines = head.lines();
        let status = lines.next().and_then(|l| l.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let headers =
            lines.filter_map(|l| l.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))).collect();
        Some(Response { status: status.unwrap_or_else(|| panic!("no status: {head}")), headers, body: Vec::new() })
    }

    /// The next chunk of a chunked body: `None` inside is its end, `None` outside the end of the connection.
    pub fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let line = loop {
            match self.input.windows(2).position(|w| w == b"\r\n") {
                Some(at) => break self.take(at + 2)?,
                None => self.more()?,
            }
        };
        let size = std::str::from_utf8(&line).ok().and_then(|l| usize::from_str_radix(l.trim(), 16).ok());
        let size = size.unwrap_or_else(|| panic!("no chunk size: {line:?}"));
        let mut chunk = self.take(size + 2)?;
        chunk.truncate(size);
        Some((size > 0).then_some(chunk))
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.input.len() < length {
            self.more()?;
        }
        Some(self.input.drain(..length).collect())
    }

    /// Reads some more; `None` at the end of the connection.
    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => None,
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                Some(())
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => None,
            Err(e) => panic!("nothing came for {TIMEOUT:?}: {e}, after {:?}", String::from_utf8_lossy(&self.input)),
        }
    }
}

/// A Server-Sent Event; empty where a field is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A stream of Server-Sent Events.
pub struct Stream {
    connection: Connection,
    /// The head of the answer.
    pub head: Response,
    text: Vec<u8>,
    /// All that came, as it came.
    pub raw: String,
}

impl Stream {
    /// Subscribes at a path.
    pub fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut connection = Connection::open(address);
        connection.send("GET", path, &[headers, &[("accept", "text/event-stream")]].concat(), b"");
        let head = connection.head().expect("an answer");
        assert_eq!(head.status, 200, "{head:?}");
        Stream { connection, head, text: Vec::new(), raw: String::new() }
    }

    /// The next event.
    #[track_caller]
    pub fn next(&mut self) -> Event {
        self.maybe_next().expect("the stream ended")
    }

    /// The next event, or `None` when the stream has ended.
    pub fn maybe_next(&mut self) -> Option<Event> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "nothing but signs of life for {PATIENCE:?}");
            let Some(at) = self.text.windows(2).position(|w| w == b"\n\n") else {
                let chunk = self.connection.chunk()??;
                self.raw += &String::from_utf8_lossy(&chunk);
                self.text.extend(chunk);
                continue;
            };
            let block: Vec<u8> = self.text.drain(..at + 2).collect();
            let mut event = Event::default();
            for line in String::from_utf8(block).expect("UTF-8").lines() {
                match line.split_once(": ") {
                    Some(("id", id)) => event.id = id.to_owned(),
                    Some(("event", name)) => event.name = name.to_owned(),
                    Some(("data", data)) => event.data += data,
                    _ => {}
                }
            }
            if !event.data.is_empty() {
                return Some(event);
            }
        }
    }

    /// The next comment, passing over events.
    #[track_caller]
    pub fn comment(&mut self) {
        while !self.raw.lines().any(|line| line.starts_with(':')) {
            let chunk = self.connection.chunk().flatten().expect("the stream ended");
            self.raw += &String::from_utf8_lossy(&chunk);
        }
    }
}
