//! What Postgres supports: the rows that are there, and the members of those that were retired,
//! computed a second time from the contract.

use std::collections::BTreeSet;

use super::oracle::Oracle;
use super::pg::Pg;
use super::rig::Rig;

impl Rig {
    /// All members that the table and the retired members support, from one snapshot.
    pub async fn supported(&self) -> Oracle {
        let mut supported = self.oracle();
        let mut pg = self.pg().await;
        let found = pg.rows_and_retired().await;
        for (source_or_time, suffix, text) in found {
            match suffix {
                None => {
                    let fields = serde_json::from_str(&text).expect("jsonb is JSON");
                    supported.adds(&source_or_time, &fields);
                }
                Some(suffix) => supported.retired(&source_or_time, &suffix, &text),
            }
        }
        supported
    }

    /// What is retired, as `source|suffix|member`.
    pub async fn retired(&self) -> BTreeSet<String> {
        let mut pg = self.pg().await;
        let wrong = "SELECT count(*) FROM retired_members WHERE digest <>
                     sha256(convert_to(suffix, 'UTF8') || '\\x00' || convert_to(member, 'UTF8'))
                     OR (expires_at IS NULL) = (source LIKE '%/%')";
        assert_eq!(pg.int(wrong).await, 0, "digests or expiries that do not follow");
        let all = "SELECT source || '|' || suffix || '|' || member FROM retired_members";
        pg.texts(all).await.into_iter().collect()
    }
}

impl Pg {
    /// Of a row: its time, nothing, its payload. Of a retired member: its source, suffix and text.
    async fn rows_and_retired(&mut self) -> Vec<(String, Option<String>, String)> {
        let sql = r#"SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                            NULL, payload::text FROM events
                     UNION ALL SELECT source, suffix, member FROM retired_members"#;
        self.three_texts(sql).await
    }
}
