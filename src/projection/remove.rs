//! Takes members out of a set, and puts some back: the only file that removes any. Which ones is
//! decided elsewhere, from Postgres. Never touches an estimated set, which cannot forget.

use fred::interfaces::{KeysInterface, SetsInterface};
use fred::types::Value;

use super::client::Projection;
use super::error::{ProjectionError, is_wrong_type};

/// Members of one command, as in `write`.
const COMMAND_MEMBERS_MAX: usize = 500;

impl Projection {
    /// How many there were. A key of another type has none of ours.
    pub async fn remove(&self, key: &str, members: &[&str]) -> Result<u64, ProjectionError> {
        let mut removed = 0;
        for some in members.chunks(COMMAND_MEMBERS_MAX) {
            let lease = self.lease(1).await?;
            let reply = [lease.client.srem::<u64, _, _>(key, values(some)).await];
            self.note(&reply);
            let [reply] = reply;
            match reply {
                Ok(some) => removed += some,
                Err(error) if is_wrong_type(&error) => return Ok(0),
                Err(error) => return Err(ProjectionError::command("SREM", error)),
            }
        }
        Ok(removed)
    }

    /// Adds members that were taken out too many; `expires_at` in Unix seconds, for a window, whose
    /// key may have gone with its last member.
    pub async fn put_back(
        &self,
        key: &str,
        members: &[&str],
        expires_at: Option<i64>,
    ) -> Result<(), ProjectionError> {
        for some in members.chunks(COMMAND_MEMBERS_MAX) {
            let lease = self.lease(2).await?;
            let reply = [lease.client.sadd::<u64, _, _>(key, values(some)).await];
            self.note(&reply);
            let [reply] = reply;
            reply.map_err(|error| ProjectionError::on_key("SADD", key, error))?;
            if let Some(at) = expires_at {
                let reply = lease.client.expire_at::<(), _>(key, at, None).await;
                reply.map_err(|error| ProjectionError::on_key("EXPIREAT", key, error))?;
            }
        }
        Ok(())
    }
}

fn values(members: &[&str]) -> Value {
    Value::Array(members.iter().map(|member| Value::from(*member)).collect())
}
