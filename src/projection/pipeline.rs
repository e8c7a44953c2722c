//! `<prefix>:pipeline`: what workers say of themselves, for those who watch. Decides nothing, and
//! is believed by nobody who writes.

use std::collections::HashMap;

use bytes::Bytes;
use fred::types::Value;

use super::client::Projection;
use super::error::ProjectionError;
use crate::pipeline::Report;

impl Projection {
    /// Writes this process's report. One command.
    pub async fn report(&self, process: &str, report: &str) -> Result<(), ProjectionError> {
        let key = self.shared.pipeline_key.as_str();
        self.one("HSET", key, vec![key.into(), process.into(), report.into()]).await.map(drop)
    }

    /// The reports that are there, by process. What is no report is left out.
    pub async fn reports(&self) -> Result<HashMap<String, Report>, ProjectionError> {
        let key = self.shared.pipeline_key.as_str();
        let reply = self.one("HGETALL", key, vec![key.into()]).await?;
        let odd = ProjectionError::Reply { command: "HGETALL", expected: "fields and values" };
        let fields: HashMap<Bytes, Bytes> = reply.convert().map_err(|_| odd)?;
        let text = |bytes: Bytes| String::from_utf8(bytes.into()).ok();
        let report =
            |(process, said): (Bytes, Bytes)| Some((text(process)?, Report::parse(&text(said)?)?));
        Ok(fields.into_iter().filter_map(report).collect())
    }

    /// Takes out the reports of processes that have ended.
    pub async fn forget_reports(&self, processes: &[String]) -> Result<(), ProjectionError> {
        if processes.is_empty() {
            return Ok(());
        }
        let key = self.shared.pipeline_key.as_str();
        let mut args = vec![Value::from(key)];
        args.extend(processes.iter().map(|process| Value::from(process.as_str())));
        self.one("HDEL", key, args).await.map(drop)
    }
}
