//! A certificate authority of a test's own, made on the spot, and what it hands out: good ones,
//! expired ones, ones for another host.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    Expired,
    OtherHost,
}

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = params(name, &[], Flaw::None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key is made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a CA signs itself");
        Authority { issuer }
    }

    /// Its own certificate, which whoever trusts it names.
    pub fn ca(&self, folder: &Path) -> PathBuf {
        write(folder, "ca.pem", &self.issuer.pem())
    }

    /// `server.pem` and `server.key`, for 127.0.0.1.
    pub fn server(&self, folder: &Path, flaw: Flaw) -> Identity {
        let host = if flaw == Flaw::OtherHost { "elsewhere.example" } else { "127.0.0.1" };
        self.issue(folder, "server", &[host], flaw, ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub fn client(&self, folder: &Path, name: &str) -> Identity {
        self.issue(folder, name, &[], Flaw::None, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        folder: &Path,
        name: &str,
        hosts: &[&str],
        flaw: Flaw,
        usage: ExtendedKeyUsagePurpose,
    ) -> Identity {
        let mut params = params(name, hosts, flaw);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key is made");
        let cert = params.signed_by(&key, &self.issuer).expect("the CA signs");
        Identity {
            cert: write(folder, &format!("{name}.pem"), &cert.pem()),
            key: write(folder, &format!("{name}.key"), &key.serialize_pem()),
        }
    }
}

fn params(name: &str, hosts: &[&str], flaw: Flaw) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("hosts are names or addresses");
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    let end = if flaw == Flaw::Expired { -Duration::days(1) } else { Duration::days(2) };
    (params.not_before, params.not_after) = (now - Duration::days(2), now + end);
    params
}

fn write(folder: &Path, name: &str, pem: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, pem).expect("the test's folder can be written");
    path
}
