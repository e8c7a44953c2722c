//! The parameters of a request. Strict: what is not understood is refused, as an answer to another
//! question than the one that was meant would be believed. Pure.

use super::problem::Problem;

/// Pairs in one query.
const PAIRS_MAX: usize = 128;

/// Names and decoded values, in the order they came.
#[derive(Debug, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// # Errors
    /// A name that is not `known`, a value that is not UTF-8 once decoded, or too many pairs.
    pub fn parse(query: Option<&str>, known: &[&str]) -> Result<Query, Problem> {
        let mut pairs = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            if pairs.len() == PAIRS_MAX {
                return Err(Problem::bad(format!("there are more than {PAIRS_MAX} parameters")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let unreadable = || Problem::bad("a parameter is not percent-encoded UTF-8");
            let name = decode(name).ok_or_else(unreadable)?;
            let value = decode(value).ok_or_else(unreadable)?;
            if !known.contains(&name.as_str()) {
                let takes = match known {
                    [] => "none is taken here".to_owned(),
                    known => format!("there is {}", known.join(", ")),
                };
                return Err(Problem::bad(format!("unknown parameter {name:?}: {takes}")));
            }
            pairs.push((name, value));
        }
        Ok(Query(pairs))
    }

    /// All values of one name.
    pub fn all(&self, name: &str) -> Vec<String> {
        let of_name = self.0.iter().filter(|(other, _)| other == name);
        of_name.map(|(_, value)| value.clone()).collect()
    }

    /// The value of a name that may be given once.
    ///
    /// # Errors
    /// It is given more than once.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut of_name = self.0.iter().filter(|(other, _)| other == name);
        let first = of_name.next().map(|(_, value)| value.as_str());
        match of_name.next() {
            None => Ok(first),
            Some(_) => Err(Problem::bad(format!("{name} is given more than once"))),
        }
    }
}

/// `+` is a space, `%xx` a byte.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || (rest.next()? as char).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(query: &str) -> Option<Vec<String>> {
        Query::parse(Some(query), &["member"]).ok().map(|query| query.all("member"))
    }

    #[test]
    fn values_are_what_was_meant() {
        let found = values("member=a%3Ab&member=S%C3%A3o+Paulo&member=&member=%252B%2b&&member");
        let wanted = ["a:b", "São Paulo", "", "%2B+", ""];
        assert_eq!(found.unwrap(), wanted);
        assert_eq!(values(""), Some(vec![]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for query in ["member=%", "member=%4", "member=%zz", "member=%ff", "members=a", "%ff=a"] {
            assert_eq!(values(query), None, "{query}");
        }
        assert_eq!(values(&"member=a&".repeat(PAIRS_MAX)).unwrap().len(), PAIRS_MAX);
        assert_eq!(values(&"member=a&".repeat(PAIRS_MAX + 1)), None);
    }

    #[test]
    fn a_single_value_is_given_once() {
        let query = Query::parse(Some("member=a&member=b"), &["member", "count"]).unwrap();
        assert!(query.one("member").is_err());
        assert_eq!(query.one("count").unwrap(), None);
    }
}
