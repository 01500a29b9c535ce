//! The home's own certificate authority: made once, kept in the key directory.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use crate::tls::Error;

/// How long the authority is good for. Clients keep its certificate, so it should not need replacing.
const AUTHORITY_LIFE: Duration = Duration::days(3650);

/// How long a server's certificate is good for; it is made anew long before.
const SERVER_LIFE: Duration = Duration::days(30);

/// Clocks of clients may be behind.
const BEFORE: Duration = Duration::days(1);

/// Names of the files.
const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

/// Signs the certificates that servers show.
pub struct Authority {
    path: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// Key of the servers' certificates; never on disk.
    server_key: KeyPair,
}

impl Authority {
    /// Reads the authority kept in `dir`, or makes it. A crash in between leaves a key without a
    /// certificate, which is then made for that key.
    ///
    /// # Errors
    /// The files cannot be read or written, or do not belong together.
    pub fn open(dir: &Path) -> Result<Authority, Error> {
        let path = dir.join(CERTIFICATE);
        let key_path = dir.join(KEY);
        let (pem, key) = (read(&path)?, read(&key_path)?);
        let key = match (&pem, key) {
            (_, Some(text)) => KeyPair::from_pem(&text).map_err(|_| damaged(&key_path))?,
            (Some(_), None) => {
                return Err(Error(format!(
                    "{} is missing beside {}; restore it, or remove the certificate to get a new one",
                    key_path.display(),
                    path.display()
                )));
            }
            (None, None) => {
                let key = KeyPair::generate().map_err(failed)?;
                write(&key_path, &key.serialize_pem(), 0o600)?;
                key
            }
        };
        let params = authority_params(&key);
        let pem = match pem {
            Some(pem) if is_for(&pem, &key) => pem,
            Some(_) => {
                return Err(Error(format!(
                    "{} is not the certificate of {}; restore the one, or remove both to get new ones",
                    path.display(),
                    key_path.display()
                )));
            }
            None => {
                let pem = params.self_signed(&key).map_err(failed)?.pem();
                write(&path, &pem, 0o644)?;
                pem
            }
        };
        let issuer = Issuer::new(params, key);
        Ok(Authority { path, pem, issuer, server_key: KeyPair::generate().map_err(failed)? })
    }

    /// The certificate that clients need in order to trust the servers.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Where that certificate lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A certificate for a server at `address`, which is also called `localhost` and everything
    /// directly below `domain`; with its key.
    ///
    /// # Errors
    /// `domain` is no name.
    pub fn issue(
        &self,
        address: IpAddr,
        domain: Option<&str>,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
        let mut names = vec!["localhost".to_owned()];
        names.extend(domain.into_iter().flat_map(|domain| [domain.to_owned(), format!("*.{domain}")]));
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.subject_alt_names.push(SanType::IpAddress(address));
        params.distinguished_name = named("Anabranch server");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, SERVER_LIFE);
        let certificate: Certificate = params.signed_by(&self.server_key, &self.issuer).map_err(failed)?;
        let key = PrivatePkcs8KeyDer::from(self.server_key.serialize_der());
        Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(key)))
    }
}

/// What the authority's certificate says; all of it follows from the key, so that the issuer can be
/// had again without reading the certificate.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    let tail: String = digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = named(&format!("Anabranch CA {tail}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params, AUTHORITY_LIFE);
    params
}

/// Whether the certificate carries this key.
fn is_for(pem: &str, key: &KeyPair) -> bool {
    let public = key.public_key_raw();
    CertificateDer::from_pem_slice(pem.as_bytes())
        .is_ok_and(|certificate| certificate.windows(public.len()).any(|part| part == public))
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn set_life(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::from(SystemTime::now());
    params.not_before = now - BEFORE;
    params.not_after = now + life;
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Writes a file as a whole or not at all; it is on disk for good when this returns.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let beside = path.with_extension("part");
    let attempt = || {
        // A half of an earlier attempt might have another mode.
        let _ = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    attempt().map_err(|error| Error(format!("cannot write {}: {error}", path.display())))
}

fn damaged(path: &Path) -> Error {
    Error(format!("{} holds no private key", path.display()))
}

fn failed(error: rcgen::Error) -> Error {
    Error(format!("cannot make a certificate: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("ana-authority-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn it_is_made_once_and_its_key_is_private() {
        let dir = Dir::new("once");
        let first = Authority::open(&dir.0).unwrap().pem().to_owned();
        assert!(first.starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(Authority::open(&dir.0).unwrap().pem(), first);
        let mode = |name| std::fs::metadata(dir.0.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(KEY), 0o600);
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 2);
    }

    #[test]
    fn what_a_crash_or_a_hand_left_is_noticed() {
        let dir = Dir::new("left");
        Authority::open(&dir.0).unwrap();
        std::fs::remove_file(dir.0.join(CERTIFICATE)).unwrap();
        let again = Authority::open(&dir.0).unwrap();
        assert!(is_for(
            again.pem(),
            &KeyPair::from_pem(&std::fs::read_to_string(dir.0.join(KEY)).unwrap()).unwrap()
        ));
        std::fs::write(dir.0.join(KEY), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(Authority::open(&dir.0).err().unwrap().0.contains("is not the certificate of"));
        std::fs::remove_file(dir.0.join(KEY)).unwrap();
        assert!(Authority::open(&dir.0).err().unwrap().0.contains("is missing"));
        std::fs::write(dir.0.join(KEY), "nonsense").unwrap();
        assert!(Authority::open(&dir.0).err().unwrap().0.contains("holds no private key"));
    }
}
