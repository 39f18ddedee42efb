//! One try: a POST to the endpoint, and what its answer means. It remembers nothing between tries but connections.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_tls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use millstream::Timestamp;

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(30);
/// So much of an answer is read, in bytes, so that its connection can be used again; one that says more is closed.
const ANSWER_BYTES: usize = 64 << 10;
/// So much of it is told to people, in bytes.
const SAID_BYTES: usize = 300;
/// However long the endpoint asks to be left alone, it is not left alone for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// Where events go, and by whom.
#[derive(Clone, Debug)]
pub struct Target {
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl Target {
    /// Reads `http://…` or `https://…`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(url: &str) -> Result<Target, String> {
        let uri: Uri = url.parse().map_err(|_| format!("{url:?} is not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("the URL has to begin with http:// or https://".into());
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err("the URL names no host".into());
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("a user and password in the URL would be logged: give a token by its file".into());
        }
        Ok(Target { uri, authorization: None })
    }

    /// The same with `Authorization: Bearer TOKEN`.
    ///
    /// # Errors
    /// If it cannot be in a header.
    pub fn with_token(self, token: &str) -> Result<Target, String> {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "a token is one line of visible ASCII")?;
        value.set_sensitive(true);
        Ok(Target { authorization: Some(value), ..self })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.uri.fmt(f)
    }
}

/// What a try means for the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint has it.
    Delivered,
    /// The endpoint will never take it: why.
    Refused(String),
    /// It may go another time.
    Failed {
        /// Why not now.
        why: String,
        /// How long the endpoint asks to be left alone.
        pause: Option<Duration>,
    },
}

/// An endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    target: Target,
    try_timeout: Duration,
}

impl Endpoint {
    /// Nothing is connected before the first try, which may take so long in all.
    ///
    /// # Errors
    /// If TLS cannot be used.
    pub fn new(target: Target, try_timeout: Duration, concurrency: usize) -> Result<Endpoint, String> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let tls = hyper_tls::native_tls::TlsConnector::new().map_err(|error| format!("TLS cannot be used: {error}"))?;
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).pool_max_idle_per_host(concurrency);
        Ok(Endpoint { client: client.build(HttpsConnector::from((http, tls.into()))), target, try_timeout })
    }

    /// Posts JSON once. `now` is what a date to come back at is compared with.
    pub async fn post(&self, idempotency_key: Option<&str>, body: Bytes, now: Timestamp) -> Verdict {
        let failed = |why: String| Verdict::Failed { why, pause: None };
        let request = match self.request(idempotency_key, body) {
            Ok(request) => request,
            Err(error) => return Verdict::Refused(format!("it cannot be sent: {error}")),
        };
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| connecting(&error))?;
            let (head, body) = answer.into_parts();
            // What it says beyond that, or an end that does not come, changes nothing about what it answered.
            let said = Limited::new(body, ANSWER_BYTES).collect().await.map(http_body_util::Collected::to_bytes);
            Ok((head, said.unwrap_or_default()))
        };
        match tokio::time::timeout(self.try_timeout, exchange).await {
            Ok(Ok((head, said))) => judge(head.status, &head.headers, &said, now),
            Ok(Err(why)) => failed(why),
            Err(_) => failed(format!("no answer within {:?}", self.try_timeout)),
        }
    }

    fn request(&self, idempotency_key: Option<&str>, body: Bytes) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder().method(Method::POST).uri(self.target.uri.clone());
        request = request.header(CONTENT_TYPE, "application/json").header(USER_AGENT, "shop-sink");
        if let Some(key) = idempotency_key {
            request = request.header("x-idempotency-key", key);
        }
        if let Some(authorization) = &self.target.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request.body(Full::new(body))
    }
}

/// What the system says is the last of the causes.
fn connecting(error: &ClientError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let what = if error.is_connect() { "it cannot be reached" } else { "the connection failed" };
    format!("{what}: {cause}")
}

/// What an answer means. A redirect is not followed: the URL is to name the endpoint.
fn judge(status: StatusCode, headers: &HeaderMap, said: &[u8], now: Timestamp) -> Verdict {
    let why = || {
        let said = String::from_utf8_lossy(said);
        let said = said.trim();
        let said = &said[..said.floor_char_boundary(SAID_BYTES)];
        if said.is_empty() { format!("status {status}") } else { format!("status {status}: {said}") }
    };
    match status.as_u16() {
        200..300 => Verdict::Delivered,
        408 | 425 | 429 | 500.. => {
            let pause = headers.get(RETRY_AFTER).and_then(|value| pause(value.to_str().ok()?, now));
            Verdict::Failed { why: why(), pause }
        }
        _ => Verdict::Refused(why()),
    }
}

/// How long `Retry-After` asks for: seconds, or until a date (RFC 9110, 10.2.3).
fn pause(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let asked = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() => LONGEST_PAUSE,
        Err(_) => {
            let at = httpdate::parse_http_date(value).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            at.saturating_sub(Duration::from_millis(now.0.max(0).unsigned_abs()))
        }
    };
    Some(asked.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_they_should() {
        let verdict = |status: u16| judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), b" no ", Timestamp(0));
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(verdict(status), Verdict::Delivered, "{status}");
        }
        for status in [408, 425, 429, 500, 501, 502, 503, 504, 599] {
            assert!(matches!(verdict(status), Verdict::Failed { why, pause: None } if why.ends_with("no")), "{status}");
        }
        for status in [301, 307, 400, 401, 403, 404, 405, 409, 410, 413, 422, 451] {
            assert!(matches!(verdict(status), Verdict::Refused(why) if why.contains(&status.to_string())), "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = Timestamp(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, seconds) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("100000", Some(120)),
            ("99999999999999999999999999", Some(120)),
            ("Sun, 06 Nov 1994 08:49:50 GMT", Some(13)),
            ("Sunday, 06-Nov-94 08:49:50 GMT", Some(13)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)), // gone by
            ("Mon, 07 Nov 1994 08:49:37 GMT", Some(120)),
            ("", None),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
        ] {
            assert_eq!(pause(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn targets_are_checked() {
        for good in ["http://127.0.0.1:9000/events", "https://platform.example/in?source=shop", "http://[::1]:8/"] {
            assert_eq!(Target::new(good).map(|target| target.to_string()), Ok(good.to_owned()));
        }
        for (bad, says) in [
            ("", "not a URL"),
            ("127.0.0.1:9000", "http"),
            ("ftp://host/", "http"),
            ("/events", "http"),
            ("http://user:secret@host/", "token"),
        ] {
            let error = Target::new(bad).expect_err(bad);
            assert!(error.contains(says) && !error.contains("secret"), "{bad}: {error}");
        }
        assert!(Target::new("http://host/").unwrap().with_token("a\nb").is_err());
    }
}
