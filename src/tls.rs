//! TLS to the three servers: the files that a URL names, and what a client needs of them.
//!
//! The files are read for each connection, so a certificate that was renewed counts from the next
//! one on. Never holds or shows anything of a key; an error names the file and no more of it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use url::Url;

/// No bundle of CAs is larger; a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The names that libpq gave to these files, for all three URLs.
pub const CA: &str = "sslrootcert";
pub const CERT: &str = "sslcert";
pub const KEY: &str = "sslkey";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no TLS: the {what} in {path} cannot be read")]
    Unreadable {
        what: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no TLS: {path} holds no {what}, in PEM")]
    Empty { what: &'static str, path: String },
    #[error(
        "no TLS: the system has no CA to trust; name a file with one by sslrootcert in the URL"
    )]
    NoCa,
    #[error("no TLS: the certificate and the key of the client are of no use")]
    Client(#[source] rustls::Error),
}

/// Which files a URL names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Whom to trust, in place of the system's CAs.
    ca: Option<PathBuf>,
    /// Who we are: a certificate with its chain, and its key.
    identity: Option<(PathBuf, PathBuf)>,
}

/// What the files held when they were read, in PEM.
pub struct Pem {
    pub ca: Option<Vec<u8>>,
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    /// # Errors
    /// What is wrong with the parameters, in words that hold nothing of the URL.
    pub fn of(url: &str) -> Result<Files, &'static str> {
        let url = Url::parse(url).map_err(|_| "it cannot be read")?;
        let (mut ca, mut cert, mut key) = (None, None, None);
        for (name, value) in url.query_pairs() {
            let slot = match &*name {
                CA => &mut ca,
                CERT => &mut cert,
                KEY => &mut key,
                _ => continue,
            };
            if value.is_empty() || slot.replace(PathBuf::from(&*value)).is_some() {
                return Err("sslrootcert, sslcert and sslkey name one file each");
            }
        }
        match (cert, key) {
            (Some(cert), Some(key)) => Ok(Files { ca, identity: Some((cert, key)) }),
            (None, None) => Ok(Files { ca, identity: None }),
            _ => Err("sslcert and sslkey go together: a certificate and its key"),
        }
    }

    pub fn has_ca(&self) -> bool {
        self.ca.is_some()
    }

    pub fn is_none(&self) -> bool {
        *self == Files::default()
    }

    /// Reads them, and sees that each holds what it should.
    pub fn read(&self) -> Result<Pem, TlsError> {
        let ca = self.ca.as_deref().map(|path| certificates("certificate of the CA", path));
        let identity = self.identity.as_ref().map(|(cert, key)| {
            Ok((certificates("certificate of the client", cert)?, private_key(key)?))
        });
        Ok(Pem { ca: ca.transpose()?, identity: identity.transpose()? })
    }

    /// What rustls makes of them. The server's certificate must be of a CA that is trusted, valid
    /// now, and for the name that we ask for; nothing can turn that off.
    pub fn client(&self) -> Result<ClientConfig, TlsError> {
        let pem = self.read()?;
        let trusted = match &pem.ca {
            Some(ca) => parsed(ca).unwrap_or_default(),
            // A file among many that cannot be read is no reason to trust none.
            None => rustls_native_certs::load_native_certs().certs,
        };
        let mut roots = RootCertStore::empty();
        if let (0, _) = roots.add_parsable_certificates(trusted) {
            return Err(TlsError::NoCa);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Client)?
            .with_root_certificates(roots);
        match pem.identity.as_ref().and_then(|(cert, key)| Some((parsed(cert)?, key))) {
            None => Ok(config.with_no_client_auth()),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key);
                let key =
                    key.map_err(|_| TlsError::Client(rustls::Error::General("key".into())))?;
                config.with_client_auth_cert(chain, key).map_err(TlsError::Client)
            }
        }
    }
}

/// Why TLS was refused, by either side, in words that are the same at each try: the library's own
/// tell the time, so that each of them would be news to the log. `said` is the error of a client.
pub fn refusal(said: &str) -> Option<&'static str> {
    const KNOWN: [(&[&str], &str); 7] = [
        // First, as it too can speak of what has expired. What a server answers differs by its
        // library, its version and that of TLS.
        (&["fatal alert", "AlertReceived"], "the server wants another certificate of the client"),
        (&["UnknownIssuer"], "the server's certificate is of no CA that is trusted here"),
        (&["certificate expired", "Expired"], "the server's certificate has expired"),
        (&["not valid yet", "NotValidYet"], "the server's certificate is not valid yet"),
        (
            &["not valid for name", "NotValidForName"],
            "the server's certificate is for another host",
        ),
        (&["InvalidContentType"], "the server does not speak TLS at this port"),
        (
            &["invalid peer certificate", "InvalidCertificate"],
            "the server's certificate is no good",
        ),
    ];
    let known = KNOWN.iter().find(|(words, _)| words.iter().any(|word| said.contains(word)));
    known.map(|(_, plain)| *plain)
}

/// For messages: where a server hangs up without a word, this may be why.
pub fn with_or_without(tls: bool) -> &'static str {
    if tls { "with TLS" } else { "without TLS" }
}

fn contents(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    let path = path.display();
    match read {
        Ok(_) => Ok(bytes),
        Err(source) => Err(TlsError::Unreadable { what, path: path.to_string(), source }),
    }
}

/// A file with certificates in it.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let pem = contents(what, path)?;
    match parsed(&pem) {
        Some(_) => Ok(pem),
        None => Err(TlsError::Empty { what, path: path.display().to_string() }),
    }
}

/// `None` where there is none, or a broken one. The reader's own words might quote the file.
fn parsed(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty())
}

fn private_key(path: &Path) -> Result<Vec<u8>, TlsError> {
    let pem = contents("key of the client", path)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(pem),
        Err(_) => Err(TlsError::Empty {
            what: "key, or an encrypted one",
            path: path.display().to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key in the wrong file, or a broken one, is still a secret.
    #[test]
    fn a_refused_file_is_named_and_not_quoted() {
        let path = std::env::temp_dir().join(format!("rollcall-tls-{}", std::process::id()));
        for kind in ["ENCRYPTED PRIVATE KEY", "PRIVATE KEY", "CERTIFICATE"] {
            let pem = format!("-----BEGIN {kind}-----\nCANARY!\n-----END {kind}-----\n");
            std::fs::write(&path, pem).expect("a folder to write to");
            let refused = [
                private_key(&path).expect_err("no key"),
                certificates("certificate of the CA", &path).expect_err("no certificate"),
            ];
            for error in refused {
                let told = format!("{error} {error:?}");
                assert!(told.contains(&path.display().to_string()), "{told}");
                assert!(!told.contains("CANARY"), "{told}");
            }
        }
        std::fs::remove_file(&path).expect("it is there");
    }

    /// An expired certificate is told of with the time of the look.
    #[test]
    fn a_refusal_is_told_in_the_same_words_each_time() {
        let expired = "invalid peer certificate: certificate expired: verification time";
        let first = refusal(&format!("{expired} 1790000000 (UNIX), but"));
        assert_eq!(first, refusal(&format!("{expired} 1790000009 (UNIX), but")));
        let of_fred =
            "Custom { kind: InvalidData, error: InvalidCertificate(ExpiredContext { time:";
        assert_eq!(refusal(of_fred), first);
        assert_eq!(first, Some("the server's certificate has expired"));
        let ours = refusal("received fatal alert: CertificateExpired");
        assert_eq!(ours, Some("the server wants another certificate of the client"));
        assert_eq!(refusal("Connection refused (os error 111)"), None);
    }
}
