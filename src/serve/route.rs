//! Every path that is answered, and its parameters. The metrics' labels, `schema/openapi.json` and
//! the tests go by this list.

use crate::telemetry::Label;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Page,
    Sets,
    Set,
    Contains,
    Members,
    Intersect,
    Stats,
    Snapshot,
    Live,
    Openapi,
    /// None of them.
    Other,
}

impl Label for Route {
    const ALL: &'static [Self] = &[
        Self::Page,
        Self::Sets,
        Self::Set,
        Self::Contains,
        Self::Members,
        Self::Intersect,
        Self::Stats,
        Self::Snapshot,
        Self::Live,
        Self::Openapi,
        Self::Other,
    ];

    fn index(self) -> usize {
        self as usize
    }

    /// The path, `{name}` being a set's.
    fn as_str(self) -> &'static str {
        match self {
            Self::Page => "/",
            Self::Sets => "/api/sets",
            Self::Set => "/api/sets/{name}",
            Self::Contains => "/api/sets/{name}/contains",
            Self::Members => "/api/sets/{name}/members",
            Self::Intersect => "/api/intersect",
            Self::Stats => "/api/stats",
            Self::Snapshot => "/api/snapshot",
            Self::Live => "/api/live",
            Self::Openapi => "/openapi.json",
            Self::Other => "other",
        }
    }
}

impl Route {
    /// The names of its parameters in the query.
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Set => &["group", "bucket"],
            Self::Contains => &["member", "group", "bucket"],
            Self::Members => &["cursor", "count", "group", "bucket"],
            Self::Intersect => &["sets"],
            Self::Page
            | Self::Sets
            | Self::Stats
            | Self::Snapshot
            | Self::Live
            | Self::Openapi
            | Self::Other => &[],
        }
    }
}

/// The route of a path, and the set that it names.
pub fn find(path: &str) -> Option<(Route, Option<&str>)> {
    let plain = |route: &&Route| !matches!(route, Route::Other) && route.as_str() == path;
    if let Some(route) = Route::ALL.iter().find(plain).filter(|_| !path.contains('{')) {
        return Some((*route, None));
    }
    let rest = path.strip_prefix("/api/sets/")?;
    let (name, route) = match rest.split_once('/') {
        None => (rest, Route::Set),
        Some((name, "contains")) => (name, Route::Contains),
        Some((name, "members")) => (name, Route::Members),
        Some(_) => return None,
    };
    (!name.is_empty()).then_some((route, Some(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_by_its_path() {
        for (at, route) in Route::ALL.iter().enumerate() {
            assert_eq!(route.index(), at);
            let path = route.as_str();
            let named = path.replace("{name}", "users");
            let found = find(&named);
            let name = path.contains("{name}").then_some("users");
            let wanted = (*route != Route::Other).then_some((*route, name));
            assert_eq!(found, wanted, "{path}");
        }
    }

    #[test]
    fn what_is_no_route_is_none() {
        for path in ["", "/api", "/api/sets/", "/api/sets/users/", "/api/sets/a/b", "/a", "other"] {
            assert_eq!(find(path), None, "{path}");
        }
        assert_eq!(find("/api/sets/{name}"), Some((Route::Set, Some("{name}"))));
    }

    /// The document names just these paths and parameters.
    #[test]
    fn the_openapi_document_has_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(super::super::OPENAPI).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let paths = document["paths"].as_object().unwrap();
        let routes: Vec<_> = Route::ALL.iter().filter(|route| **route != Route::Other).collect();
        assert_eq!(paths.len(), routes.len());
        for route in routes {
            let operation = &paths[route.as_str()]["get"];
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let named = parameters
                .filter(|one| one["in"] == "query")
                .map(|one| one["name"].as_str().unwrap_or_default().to_owned());
            let mut named: Vec<String> = named.collect();
            let mut taken: Vec<String> =
                route.parameters().iter().map(|&name| name.to_owned()).collect();
            named.sort();
            taken.sort();
            assert_eq!(named, taken, "{}", route.as_str());
        }
    }
}
