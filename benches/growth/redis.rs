//! A client with nothing in it: one connection, one question after the other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub struct Redis {
    stream: BufReader<TcpStream>,
}

impl Redis {
    pub fn connect(url: &str) -> Result<Redis> {
        let url = url::Url::parse(url)?;
        let host = url.host_str().context("a host")?;
        let stream = TcpStream::connect((host, url.port().unwrap_or(6379)))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Redis { stream: BufReader::new(stream) })
    }

    /// A command without spaces in its words, and its answer: a text or a number.
    fn ask(&mut self, command: &str) -> Result<String> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.trim_end();
        if let Some(length) = line.strip_prefix('$') {
            let mut text = vec![0; length.parse::<usize>()? + 2];
            self.stream.read_exact(&mut text)?;
            return Ok(String::from_utf8(text)?);
        }
        match line.split_at_checked(1) {
            Some((":" | "+", answer)) => Ok(answer.to_owned()),
            _ => bail!("{command}: {line}"),
        }
    }

    pub fn scard(&mut self, key: &str) -> Result<u64> {
        Ok(self.ask(&format!("SCARD {key}"))?.parse()?)
    }

    /// Of so many asked one after another: the median and the 99th percentile, as asked here.
    pub fn scard_times(&mut self, key: &str, times: usize) -> Result<(Duration, Duration)> {
        let mut took = Vec::with_capacity(times);
        for _ in 0..times {
            let began = Instant::now();
            self.scard(key)?;
            took.push(began.elapsed());
        }
        took.sort_unstable();
        Ok((took[times / 2], took[times * 99 / 100]))
    }

    fn info(&mut self, section: &str, field: &str) -> Result<String> {
        let text = self.ask(&format!("INFO {section}"))?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(name, _)| *name == field);
        Ok(found.with_context(|| format!("INFO has no {field}"))?.1.trim().to_owned())
    }

    pub fn version(&mut self) -> Result<String> {
        self.info("server", "redis_version")
    }

    /// Once what was deleted is freed, which Redis does beside its work.
    pub fn used_memory(&mut self) -> Result<u64> {
        while self.info("memory", "lazyfree_pending_objects")? != "0" {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self.info("memory", "used_memory")?.parse()?)
    }
}
