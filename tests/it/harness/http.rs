//! One request, by hand, and the Prometheus text it may answer with.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub async fn get(addr: SocketAddr, path: &str) -> Result<Reply, String> {
    request(addr, "GET", path).await
}

pub async fn request(addr: SocketAddr, method: &str, path: &str) -> Result<Reply, String> {
    request_with(addr, method, path, "").await
}

/// With header lines, each ended by CRLF.
pub async fn request_with(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
) -> Result<Reply, String> {
    in_time(addr, method, path, headers, "").await
}

/// Posts a form.
pub async fn post_form(addr: SocketAddr, path: &str, form: &str) -> Result<Reply, String> {
    let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
    in_time(addr, "POST", path, kind, form).await
}

async fn in_time(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<Reply, String> {
    tokio::time::timeout(Duration::from_secs(5), exchange(addr, method, path, headers, body))
        .await
        .map_err(|_| format!("{method} {path} had no answer in 5 s"))?
        .map_err(|error| format!("{method} {path} failed: {error}"))
}

async fn exchange(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(addr).await?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {addr}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok(Reply { status, head: head.to_owned(), body: body.to_owned() })
}

/// One scrape.
pub struct Metrics(Vec<(String, String, f64)>);

impl Metrics {
    pub fn parse(text: &str) -> Metrics {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}');
            Some((name.to_owned(), labels.to_owned(), value.parse().ok()?))
        });
        Metrics(samples.collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _, _)| n == name)
    }

    /// The sum over all series of one name.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, "")
    }

    /// The sum over the series whose labels hold `label`, for instance `reason="json"`.
    pub fn sum_where(&self, name: &str, label: &str) -> f64 {
        let of_name = self.0.iter().filter(|(n, labels, _)| n == name && labels.contains(label));
        // Not `sum()`, which starts from -0.0 and prints so.
        of_name.fold(0.0, |sum, (_, _, value)| sum + value)
    }

    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _, _)| name.as_str()).collect()
    }
}
