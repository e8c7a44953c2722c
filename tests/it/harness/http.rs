//! One request, by hand, and the Prometheus text it may answer with.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Reply {
    pub status: u16,
    pub body: String,
}

pub async fn get(addr: SocketAddr, path: &str) -> Result<Reply, String> {
    request(addr, "GET", path).await
}

pub async fn request(addr: SocketAddr, method: &str, path: &str) -> Result<Reply, String> {
    tokio::time::timeout(Duration::from_secs(5), exchange(addr, method, path, ""))
        .await
        .map_err(|_| format!("{method} {path} had no answer in 5 s"))?
        .map_err(|error| format!("{method} {path} failed: {error}"))
}

/// Posts a form.
pub async fn post_form(addr: SocketAddr, path: &str, form: &str) -> Result<Reply, String> {
    tokio::time::timeout(Duration::from_secs(5), exchange(addr, "POST", path, form))
        .await
        .map_err(|_| format!("POST {path} had no answer in 5 s"))?
        .map_err(|error| format!("POST {path} failed: {error}"))
}

async fn exchange(
    addr: SocketAddr,
    method: &str,
    path: &str,
    form: &str,
) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(addr).await?;
    let kind = match form {
        "" => "",
        _ => "Content-Type: application/x-www-form-urlencoded\r\n",
    };
    let length = form.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {addr}\r\n{kind}Content-Length: {length}\r\n\
         Connection: close\r\n\r\n{form}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok(Reply { status, body: body.to_owned() })
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
