//! The readers' questions: from a set's name and a query to what Redis says. Each answer carries
//! how far to trust it, and where Redis cannot tell there is none.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::answer::Answer;
use super::problem::Problem;
use super::query::Query;
use crate::projection::{Answer as Told, Common, Counts, Meta, State};
use crate::sets::{Kind, Set, decode};
use crate::snapshot::{Asker, from_first_that_holds};
use crate::telemetry::rfc3339;

/// Buckets of one set in one answer: a year of days.
const BUCKETS_MAX: usize = 366;
/// Members asked about, and given, in one answer.
const ASKED_MAX: usize = 100;
const MEMBERS_MAX: u32 = 1_000;
const MEMBERS_DEFAULT: u32 = 100;
/// Sets of one intersection.
const SETS_MAX: usize = 8;
/// Members of its smallest set: each is looked up in the others, while Redis does nothing else.
const LOOKED_AT_MAX: u64 = 250_000;

/// How far an answer may be trusted.
struct Trust {
    generation: String,
    state: Option<State>,
    last_applied_at: Option<OffsetDateTime>,
}

impl Trust {
    /// # Errors
    /// Redis holds no generation.
    fn of(meta: &Meta) -> Result<Trust, Problem> {
        let generation = meta.generation.clone().ok_or_else(Problem::unknown)?;
        Ok(Trust { generation, state: meta.state, last_applied_at: meta.last_applied_at })
    }

    /// # Errors
    /// Redis holds no generation, or not all of history of this set.
    fn of_set(meta: &Meta, set: &Set) -> Result<Trust, Problem> {
        match meta.is_whole(set) {
            true => Trust::of(meta),
            false => Err(Problem::unknown()),
        }
    }

    /// # Errors
    /// The answer is that it is not known.
    fn told<T>(told: Told<T>) -> Result<(T, Trust), Problem> {
        match told {
            Told::Known { value, generation, last_applied_at, state } => {
                Ok((value, Trust { generation, state, last_applied_at }))
            }
            Told::Unknown => Err(Problem::unknown()),
        }
    }

    fn answer(self, said: Value) -> Answer {
        let Value::Object(mut lasting) = said else { return Problem::unknown().into_answer() };
        lasting.insert("generation".to_owned(), json!(self.generation));
        lasting.insert("state".to_owned(), json!(self.state.map(State::as_str)));
        lasting.insert("last_applied_at".to_owned(), json!(self.last_applied_at.map(rfc3339)));
        let age = self.last_applied_at.map(|at| {
            let age = (OffsetDateTime::now_utc() - at).as_seconds_f64().max(0.0);
            (age * 1_000.0).round() / 1_000.0
        });
        let passing = Map::from_iter([("age_seconds".to_owned(), json!(age))]);
        Answer::json(lasting, passing)
    }
}

/// Every set, with its cardinality where it has one.
pub async fn sets(asker: &Asker) -> Result<Answer, Problem> {
    let now = OffsetDateTime::now_utc();
    let single: Vec<&Set> = asker.sets().iter().filter(|set| set.group_fields == 0).collect();
    let mut keys = Vec::new();
    for set in &single {
        keys.push((set.kind, set.key(set.present_bucket(now).as_deref(), &[])?));
    }
    let Counts { counts, meta } = asker.redis().counts(&keys).await?;
    let trust = Trust::of(&meta)?;
    let rows = asker.sets().iter().map(|set| {
        let at = single.iter().position(|other| other.name == set.name);
        let count = at.and_then(|at| counts.get(at).copied().flatten());
        let mut row = described(set);
        row["bucket"] = json!(set.present_bucket(now));
        row["cardinality"] = json!(count.filter(|_| meta.is_whole(set)));
        row
    });
    let rows: Vec<Value> = rows.collect();
    Ok(trust.answer(json!({"sets": rows})))
}

/// The two numbers of the demo, and of each other set that is neither grouped nor windowed:
/// `distinct_<name>`.
pub async fn stats(asker: &Asker) -> Result<Answer, Problem> {
    let plain = |set: &&Set| set.group_fields == 0 && set.window.is_none();
    let plain: Vec<&Set> = asker.sets().iter().filter(plain).collect();
    let keys: Vec<_> = plain.iter().map(|set| (set.kind, set.base_key().to_owned())).collect();
    let Counts { counts, meta } = asker.redis().counts(&keys).await?;
    let trust = Trust::of(&meta)?;
    let numbers: Vec<_> = plain
        .iter()
        .zip(counts)
        .map(|(set, count)| (&set.name, count.filter(|_| meta.is_whole(set))))
        .collect();
    if !numbers.is_empty() && numbers.iter().all(|(_, count)| count.is_none()) {
        return Err(Problem::unknown());
    }
    let numbers =
        numbers.into_iter().map(|(name, count)| (format!("distinct_{name}"), json!(count)));
    Ok(trust.answer(Value::Object(numbers.collect())))
}

/// One set, or one of those that make it up.
pub async fn set(asker: &Asker, name: &str, query: &Query) -> Result<Answer, Problem> {
    let set = asker.sets().find(name)?;
    let now = OffsetDateTime::now_utc();
    let (group, bucket) = (query.all("group"), query.one("bucket")?);
    if set.group_fields > 0 && group.is_empty() {
        return groups(asker, set, bucket, now).await;
    }
    let key = Key::of(asker, set, query, now).await?;
    let mut keys = vec![(set.kind, key.text.clone())];
    // The others beside it, where none was asked for by name.
    let mut buckets = match bucket {
        None => set.buckets_until(now, BUCKETS_MAX + 1),
        Some(_) => Vec::new(),
    };
    let truncated = buckets.len() > BUCKETS_MAX;
    buckets.truncate(BUCKETS_MAX);
    for bucket in &buckets {
        keys.push((set.kind, set.key(Some(bucket), &group)?));
    }
    let Counts { counts, meta } = asker.redis().counts(&keys).await?;
    let trust = Trust::of_set(&meta, set)?;
    let mut counts = counts.into_iter();
    let cardinality = counts.next().flatten().ok_or_else(Problem::wrong_type)?;
    let listed = set.window.is_some() && bucket.is_none();
    let buckets = from_first_that_holds(buckets.into_iter().zip(counts).collect());
    let mut said = described(set);
    said["bucket"] = json!(key.bucket);
    said["group"] = json!((!group.is_empty()).then_some(group));
    said["cardinality"] = json!(cardinality);
    said["buckets"] = json!(listed.then_some(buckets));
    said["buckets_truncated"] = json!(truncated);
    said["groups"] = Value::Null;
    said["groups_truncated"] = json!(false);
    Ok(trust.answer(said))
}

/// The busiest groups of a set, of the present bucket where there are buckets.
async fn groups(
    asker: &Asker,
    set: &Set,
    bucket: Option<&str>,
    now: OffsetDateTime,
) -> Result<Answer, Problem> {
    let present = set.present_bucket(now);
    if let Some(bucket) = bucket
        && set.keeps(bucket, now).is_ok_and(|_| present.as_deref() != Some(bucket))
    {
        return Err(Problem::bad(format!(
            "the groups of set {} are listed for the present bucket alone: name a group as well",
            set.name
        )));
    }
    // An odd bucket, or one of a set without a window.
    if let Some(bucket) = bucket {
        set.keeps(bucket, now)?;
    }
    let busy = asker.busy(set);
    let keys = busy.iter().flat_map(|busy| &busy.keys);
    let keys: Vec<(Kind, String)> = keys.map(|key| (set.kind, key.clone())).collect();
    let Counts { counts, meta } = asker.redis().counts(&keys).await?;
    let trust = Trust::of_set(&meta, set)?;
    let mut found: Vec<(u64, Vec<String>)> = keys
        .iter()
        .zip(counts)
        // A group without members has no key: it has gone since it was found.
        .filter_map(|((_, key), count)| Some((count.filter(|n| *n > 0)?, set.group_of(key)?)))
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let listed: Vec<Value> = found
        .into_iter()
        .map(|(cardinality, group)| json!({"group": group, "cardinality": cardinality}))
        .collect();
    let mut said = described(set);
    said["bucket"] = json!(present);
    for field in ["group", "cardinality", "buckets"] {
        said[field] = Value::Null;
    }
    said["buckets_truncated"] = json!(false);
    said["groups"] = json!(busy.as_ref().map(|_| listed));
    said["groups_truncated"] = json!(busy.is_some_and(|busy| busy.truncated));
    Ok(trust.answer(said))
}

/// Whether each of some members is in a set.
pub async fn contains(asker: &Asker, name: &str, query: &Query) -> Result<Answer, Problem> {
    let set = asker.sets().find(name)?;
    let key = Key::of(asker, set, query, OffsetDateTime::now_utc()).await?;
    let asked = query.all("member");
    if asked.is_empty() || asked.len() > ASKED_MAX {
        return Err(Problem::bad(format!("give member from 1 to {ASKED_MAX} times")));
    }
    let members = asked.iter().map(|one| set.member(one)).collect::<Result<Vec<_>, _>>()?;
    let borrowed: Vec<&str> = members.iter().map(String::as_str).collect();
    let told = asker.redis().contains(set, &key.text, &borrowed).await?;
    let (contained, trust) = Trust::told(told)?;
    let rows = asked.iter().zip(contained);
    let rows = rows.map(|(member, contained)| json!({"member": member, "contained": contained}));
    let rows: Vec<Value> = rows.collect();
    Ok(trust.answer(key.said(json!({"members": rows}))))
}

/// Some members of a set, and where to go on.
pub async fn members(asker: &Asker, name: &str, query: &Query) -> Result<Answer, Problem> {
    let set = asker.sets().find(name)?;
    let key = Key::of(asker, set, query, OffsetDateTime::now_utc()).await?;
    let cursor = query.one("cursor")?;
    if cursor.is_some_and(|cursor| !is_number(cursor) || cursor.parse::<u64>().is_err()) {
        return Err(Problem::bad("cursor is the one of the answer before, and left out at first"));
    }
    let count = match query.one("count")? {
        None => MEMBERS_DEFAULT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| is_number(text) && (1..=MEMBERS_MAX).contains(count))
            .ok_or_else(|| Problem::bad(format!("count is a number from 1 to {MEMBERS_MAX}")))?,
    };
    let told = asker.redis().members(set, &key.text, cursor, count).await?;
    let (page, trust) = Trust::told(told)?;
    // As `contains` takes them.
    let shown = |member: String| match set.member_fields {
        1 => decode(&member),
        _ => member,
    };
    let members: Vec<String> = page.members.into_iter().map(shown).collect();
    Ok(trust.answer(key.said(json!({"members": members, "cursor": page.cursor}))))
}

/// How many members all of some sets have.
pub async fn intersect(asker: &Asker, query: &Query) -> Result<Answer, Problem> {
    let now = OffsetDateTime::now_utc();
    let names: Vec<&str> = query.one("sets")?.unwrap_or_default().split(',').collect();
    let distinct: std::collections::BTreeSet<&&str> = names.iter().collect();
    if !(2..=SETS_MAX).contains(&names.len()) || distinct.len() != names.len() {
        let rule = format!("sets names from 2 to {SETS_MAX} different sets, parted by commas");
        return Err(Problem::bad(rule));
    }
    let mut sets = Vec::with_capacity(names.len());
    for name in &names {
        let set = asker.sets().find(name)?;
        if set.kind != Kind::Exact || set.group_fields > 0 {
            let rule = "only exact sets without groups can be intersected";
            return Err(Problem::not_supported(format!("{rule}, and {name} is none")));
        }
        sets.push((set, set.key(set.present_bucket(now).as_deref(), &[])?));
    }
    let (cardinality, meta) = match asker.redis().common(&sets, LOOKED_AT_MAX).await? {
        Common::Members(cardinality, meta) => (cardinality, meta),
        Common::Unknown => return Err(Problem::unknown()),
        Common::TooMany => {
            let rule = format!("the smallest of them has more than {LOOKED_AT_MAX} members");
            return Err(Problem::not_supported(rule));
        }
        Common::Apart => {
            let rule = "a cluster keeps these sets on different nodes";
            return Err(Problem::not_supported(rule));
        }
    };
    let trust = Trust::of(&meta)?;
    let rows =
        sets.iter().map(|(set, _)| json!({"name": set.name, "bucket": set.present_bucket(now)}));
    let rows: Vec<Value> = rows.collect();
    Ok(trust.answer(json!({"sets": rows, "cardinality": cardinality})))
}

/// The one set of a definition that a request names.
struct Key {
    set: String,
    group: Vec<String>,
    bucket: Option<String>,
    text: String,
}

impl Key {
    /// Of the present bucket, unless one is named.
    ///
    /// # Errors
    /// The set has no such group or bucket, or Redis keeps the bucket no longer.
    async fn of(
        asker: &Asker,
        set: &Set,
        query: &Query,
        now: OffsetDateTime,
    ) -> Result<Key, Problem> {
        let group = query.all("group");
        let named = query.one("bucket")?;
        let bucket = named.map(str::to_owned).or_else(|| set.present_bucket(now));
        let text = set.key(bucket.as_deref(), &group)?;
        if let Some(bucket) = named
            && !set.keeps(bucket, now)?
        {
            // One that is there all the same was kept for longer.
            let Counts { counts, meta } = asker.redis().counts(&[(set.kind, text.clone())]).await?;
            Trust::of_set(&meta, set)?;
            if counts == [Some(0)] {
                return Err(Problem::expired(bucket));
            }
        }
        Ok(Key { set: set.name.clone(), group, bucket, text })
    }

    fn said(self, mut said: Value) -> Value {
        said["set"] = json!(self.set);
        said["bucket"] = json!(self.bucket);
        said["group"] = json!((!self.group.is_empty()).then_some(self.group));
        said
    }
}

fn described(set: &Set) -> Value {
    json!({
        "name": set.name,
        "definition": set.text,
        "kind": set.kind.as_str(),
        "grouped": set.group_fields > 0,
        "window": set.window.map(crate::sets::Window::name),
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
