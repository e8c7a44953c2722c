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
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.answer(command)
    }

    fn answer(&mut self, command: &str) -> Result<String> {
        let line = self.line()?;
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

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    /// Which of them are members, in one question.
    pub fn are_members(&mut self, key: &str, members: &[String]) -> Result<Vec<bool>> {
        // An inline command would end at 64 KiB.
        let mut command = format!("*{}\r\n", members.len() + 2);
        for word in ["SMISMEMBER", key].into_iter().chain(members.iter().map(String::as_str)) {
            command += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.stream.get_mut().write_all(command.as_bytes())?;
        let count = self.line()?;
        let count = count.strip_prefix('*').with_context(|| format!("SMISMEMBER: {count}"))?;
        let answers = (0..count.parse::<usize>()?).map(|_| self.answer("SMISMEMBER"));
        answers.map(|answer| Ok(answer? == "1")).collect()
    }

    pub fn flush_all(&mut self) -> Result<()> {
        self.ask("FLUSHALL SYNC").map(drop)
    }

    pub fn scard(&mut self, key: &str) -> Result<u64> {
        Ok(self.ask(&format!("SCARD {key}"))?.parse()?)
    }

    /// Of so many asked one after another: the median and the 99th percentile, as asked here.
    pub fn times(&mut self, command: &str, times: usize) -> Result<(Duration, Duration)> {
        let mut took = Vec::with_capacity(times);
        for _ in 0..times {
            let began = Instant::now();
            self.ask(command)?;
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
