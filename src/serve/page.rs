//! The page: one file, and the policy that lets a browser run just the scripts and styles that are
//! in it. Nothing is loaded from elsewhere.

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::answer::{Answer, Fixed};

/// Its scripts and styles stand in elements of their own: attributes such as onclick and style are
/// refused by the policy.
const PAGE: &str = include_str!("page.html");

pub struct Page(Fixed);

impl Page {
    pub fn new() -> Page {
        let policy = HeaderValue::from_str(&policy(PAGE)).ok();
        let kind = HeaderValue::from_static("text/html; charset=utf-8");
        Page(Fixed::new(kind, policy, Bytes::from_static(PAGE.as_bytes())))
    }

    pub fn answer(&self) -> Answer {
        self.0.answer()
    }
}

fn policy(page: &str) -> String {
    let hashes = |element| match hashes(page, element).as_slice() {
        [] => "'none'".to_owned(),
        some => some.join(" "),
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hashes("script"),
        hashes("style"),
    )
}

/// Of what stands between `<element …>` and `</element>`, each time.
fn hashes(page: &str, element: &str) -> Vec<String> {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    let mut hashes = Vec::new();
    let mut rest = page;
    while let Some((_, begun)) = rest.split_once(&open) {
        let Some((tag, inside)) = begun.split_once('>') else { break };
        let Some((text, after)) = inside.split_once(&close) else { break };
        rest = after;
        if tag.is_empty() || tag.starts_with(char::is_whitespace) {
            hashes.push(format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text))));
        }
    }
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_each_script_and_style_of_the_page() {
        // sha256 of the empty text.
        let empty = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='";
        assert_eq!(
            hashes("<script></script><script type=\"module\"></script>", "script"),
            [empty, empty]
        );
        assert_eq!(hashes("<scripts></script>", "script"), Vec::<String>::new());
        assert!(policy("<p>").contains("script-src 'none'; style-src 'none';"));
        assert!(HeaderValue::from_str(&policy(PAGE)).is_ok());
    }

    /// What the policy would refuse must not be in it.
    #[test]
    fn the_page_asks_for_nothing_that_is_refused() {
        for refused in
            ["src=", "href=\"http", " onclick=", " onload=", " style=\"", "rel=\"stylesheet"]
        {
            assert!(!PAGE.contains(refused), "{refused}");
        }
    }
}
