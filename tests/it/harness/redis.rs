//! A Redis client of a few lines: the oracle should see bytes, not a driver's opinion of them.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub struct Redis(BufReader<TcpStream>);

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Nil,
    Int(i64),
    Text(String),
    Error(String),
    List(Vec<Reply>),
}

impl Redis {
    /// `redis://[[user]:password@]host:port[/db]`
    pub async fn connect(url: &str) -> Result<Redis, String> {
        let rest = url.strip_prefix("redis://").ok_or("not a redis:// url")?;
        let (rest, db) = rest.split_once('/').unwrap_or((rest, "0"));
        let (credentials, address) = rest.rsplit_once('@').unwrap_or(("", rest));
        let stream = TcpStream::connect(address).await.map_err(|e| format!("redis: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut redis = Redis(BufReader::new(stream));
        if let Some((user, password)) = credentials.split_once(':') {
            let user = if user.is_empty() { "default" } else { user };
            redis.ask(&["AUTH", user, password]).await?;
        }
        if !db.is_empty() && db != "0" {
            redis.ask(&["SELECT", db]).await?;
        }
        Ok(redis)
    }

    /// A reply, or why there is none: an error of Redis or of the connection.
    pub async fn ask(&mut self, command: &[&str]) -> Result<Reply, String> {
        let asked = tokio::time::timeout(Duration::from_secs(5), self.exchange(command)).await;
        match asked.map_err(|_| format!("{command:?}: no answer in 5 s"))? {
            Ok(Reply::Error(error)) => Err(format!("{command:?}: {error}")),
            Ok(reply) => Ok(reply),
            Err(error) => Err(format!("{command:?}: {error}")),
        }
    }

    /// Several commands in one round trip.
    pub async fn ask_all(&mut self, commands: &[&[&str]]) -> Result<Vec<Reply>, String> {
        let asked = async {
            let requests: Vec<u8> = commands.iter().flat_map(|one| request(one)).collect();
            self.0.write_all(&requests).await?;
            let mut replies = Vec::with_capacity(commands.len());
            for _ in commands {
                replies.push(Box::pin(self.read()).await?);
            }
            Ok::<_, std::io::Error>(replies)
        };
        let asked = tokio::time::timeout(Duration::from_secs(5), asked).await;
        let replies = asked.map_err(|_| format!("{commands:?}: no answer in 5 s"))?;
        replies.map_err(|error| format!("{commands:?}: {error}"))
    }

    pub async fn int(&mut self, command: &[&str]) -> i64 {
        match self.ask(command).await.unwrap() {
            Reply::Int(n) => n,
            other => panic!("{command:?} answered {other:?}"),
        }
    }

    /// The texts of a list, sorted.
    pub async fn texts(&mut self, command: &[&str]) -> Result<Vec<String>, String> {
        let mut texts = self.in_order(command).await?;
        texts.sort();
        Ok(texts)
    }

    pub async fn in_order(&mut self, command: &[&str]) -> Result<Vec<String>, String> {
        let Reply::List(items) = self.ask(command).await? else {
            return Err(format!("{command:?} answered no list"));
        };
        Ok(items.into_iter().map(Reply::into_text).collect())
    }

    async fn exchange(&mut self, command: &[&str]) -> std::io::Result<Reply> {
        self.0.write_all(&request(command)).await?;
        Box::pin(self.read()).await
    }

    async fn read(&mut self) -> std::io::Result<Reply> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        let line = line.trim_end();
        let Some(kind) = line.chars().next() else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        let rest = &line[1..];
        let number: i64 = rest.parse().unwrap_or(0);
        Ok(match kind {
            '+' => Reply::Text(rest.to_owned()),
            '-' => Reply::Error(rest.to_owned()),
            ':' => Reply::Int(number),
            '$' if number < 0 => Reply::Nil,
            '$' => {
                let mut bytes = vec![0; number as usize + 2];
                self.0.read_exact(&mut bytes).await?;
                bytes.truncate(number as usize);
                Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            '*' => {
                let mut items = Vec::new();
                for _ in 0..number {
                    items.push(Box::pin(self.read()).await?);
                }
                Reply::List(items)
            }
            other => panic!("redis answered with {other:?}"),
        })
    }
}

fn request(command: &[&str]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", command.len()).into_bytes();
    for part in command {
        request.extend(format!("${}\r\n", part.len()).bytes());
        request.extend(part.as_bytes());
        request.extend(b"\r\n");
    }
    request
}

impl Reply {
    pub fn into_text(self) -> String {
        match self {
            Reply::Text(text) => text,
            other => panic!("{other:?} is no text"),
        }
    }
}
