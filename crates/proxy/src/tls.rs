//! Which certificate is shown to whom, and what the name that a client asks for means.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;

use crate::authority::Authority;

/// Name of PostgreSQL's protocol in TLS (ALPN). A client that begins with TLS at once must offer it.
pub const PROTOCOL: &[u8] = b"postgresql";

/// A certificate of our own is made anew after this time.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// So many addresses have their certificate kept; beyond that all are made again as needed.
const MOST_KEPT: usize = 4096;

/// Given files are looked at for changes this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// The certificates of the front door.
pub struct Certificates {
    source: Source,
    domain: Option<String>,
}

enum Source {
    Own { authority: Box<Authority>, kept: Mutex<HashMap<IpAddr, (Instant, Arc<ServerConfig>)>> },
    Given { certificate: PathBuf, key: PathBuf, loaded: Mutex<Loaded> },
}

struct Loaded {
    stamps: [Stamp; 2],
    looked: Instant,
    config: Arc<ServerConfig>,
}

/// What changes when a file is replaced or written to.
type Stamp = (u64, u64, SystemTime);

impl Certificates {
    /// Certificates signed by the authority kept in `dir`, which is made where there is none.
    ///
    /// # Errors
    /// The authority cannot be read or made, or `domain` is no name.
    pub fn own(dir: &Path, domain: Option<String>) -> Result<Certificates, Error> {
        let authority = Box::new(Authority::open(dir)?);
        let certificates = Certificates { source: Source::Own { authority, kept: Mutex::default() }, domain };
        // What cannot work for one address works for none: better said at the start.
        certificates.config(IpAddr::from([127, 0, 0, 1]))?;
        Ok(certificates)
    }

    /// The certificate (with its chain) and key in two PEM files; read again when they change.
    ///
    /// # Errors
    /// The files cannot be read, or do not belong together.
    pub fn given(certificate: &Path, key: &Path, domain: Option<String>) -> Result<Certificates, Error> {
        let stamps = stamps(certificate, key)?;
        let config = load(certificate, key)?;
        let loaded = Mutex::new(Loaded { stamps, looked: Instant::now(), config });
        let source = Source::Given { certificate: certificate.to_owned(), key: key.to_owned(), loaded };
        Ok(Certificates { source, domain })
    }

    /// What a server at `local` shows.
    ///
    /// # Errors
    /// A certificate cannot be made.
    pub fn config(&self, local: IpAddr) -> Result<Arc<ServerConfig>, Error> {
        match &self.source {
            Source::Own { authority, kept } => {
                let local = local.to_canonical();
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((made, config)) = kept.get(&local)
                    && made.elapsed() < FRESH
                {
                    return Ok(Arc::clone(config));
                }
                let (certificate, key) = authority.issue(local, self.domain.as_deref())?;
                let config = server_config(vec![certificate], key)?;
                if kept.len() >= MOST_KEPT {
                    kept.clear();
                }
                kept.insert(local, (Instant::now(), Arc::clone(&config)));
                Ok(config)
            }
            Source::Given { certificate, key, loaded } => {
                let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
                if loaded.looked.elapsed() >= LOOK_EVERY {
                    loaded.looked = Instant::now();
                    loaded.refresh(certificate, key);
                }
                Ok(Arc::clone(&loaded.config))
            }
        }
    }

    /// The certificate of our own authority, and where it lies; none where a certificate was given.
    pub fn authority(&self) -> Option<(&str, &Path)> {
        match &self.source {
            Source::Own { authority, .. } => Some((authority.pem(), authority.path())),
            Source::Given { .. } => None,
        }
    }

    /// The endpoint that a client means by asking for a server of this name: `ENDPOINT.DOMAIN`.
    pub fn endpoint_of(&self, server_name: &str) -> Option<String> {
        let name = server_name.strip_suffix('.').unwrap_or(server_name).to_ascii_lowercase();
        let label = name.strip_suffix(&self.domain.as_ref()?.to_ascii_lowercase())?.strip_suffix('.')?;
        (!label.is_empty() && !label.contains('.')).then(|| label.to_owned())
    }
}

impl Loaded {
    /// Reads the files again if they changed. What cannot be used is left alone: the old certificate
    /// is better than none, and the other of the two files may be on its way.
    fn refresh(&mut self, certificate: &Path, key: &Path) {
        let attempt = stamps(certificate, key).and_then(|stamps| {
            if stamps == self.stamps {
                return Ok(None);
            }
            Ok(Some((stamps, load(certificate, key)?)))
        });
        match attempt {
            Ok(None) => {}
            Ok(Some((stamps, config))) => {
                tracing::info!(certificate = %certificate.display(), "the certificate was read again");
                (self.stamps, self.config) = (stamps, config);
            }
            Err(error) => tracing::warn!(%error, "the changed certificate is not used"),
        }
    }
}

fn stamps(certificate: &Path, key: &Path) -> Result<[Stamp; 2], Error> {
    let stamp = |path: &Path| {
        let facts = std::fs::metadata(path)
            .map_err(|error| Error(format!("cannot read {}: {error}", path.display())))?;
        let changed = facts
            .modified()
            .map_err(|error| Error(format!("cannot read the time of {}: {error}", path.display())))?;
        Ok((facts.ino(), facts.len(), changed))
    };
    Ok([stamp(certificate)?, stamp(key)?])
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let unreadable = |path: &Path, error: rustls::pki_types::pem::Error| {
        Error(format!("cannot use {} as a PEM file: {error}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(certificate, error))?;
    if chain.is_empty() {
        return Err(Error(format!("{} holds no certificate", certificate.display())));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
    server_config(chain, private).map_err(|error| {
        Error(format!("{} and {} are of no use together: {error}", certificate.display(), key.display()))
    })
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, Error> {
    let failed = |error: rustls::Error| Error(format!("the certificate is of no use: {error}"));
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(failed)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Drivers do not resume sessions, and what is kept for it would cost memory at every connection.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ana-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn names_below_the_domain_are_endpoints() {
        let dir = scratch("names");
        let certificates = Certificates::own(&dir, Some("db.Example.org".to_owned())).unwrap();
        let of = |name| certificates.endpoint_of(name);
        assert_eq!(of("ep-1.db.example.org").as_deref(), Some("ep-1"));
        assert_eq!(of("EP-1.DB.example.ORG.").as_deref(), Some("ep-1"));
        for other in
            ["db.example.org", "a.ep-1.db.example.org", "xdb.example.org", "localhost", ".db.example.org"]
        {
            assert_eq!(of(other), None, "{other}");
        }
        let without = Certificates::own(&dir, None).unwrap();
        assert_eq!(without.endpoint_of("ep-1.db.example.org"), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn certificates_are_kept_by_address() {
        let dir = scratch("kept");
        let certificates = Certificates::own(&dir, None).unwrap();
        let first = certificates.config("127.64.0.1".parse().unwrap()).unwrap();
        assert!(Arc::ptr_eq(&first, &certificates.config("::ffff:127.64.0.1".parse().unwrap()).unwrap()));
        assert!(!Arc::ptr_eq(&first, &certificates.config("::1".parse().unwrap()).unwrap()));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn given_files_are_read_again_when_both_are_new() {
        let dir = scratch("given");
        let make = || {
            let made = rcgen::generate_simple_self_signed(vec!["db.example.org".to_owned()]).unwrap();
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        let (first, second) = (make(), make());
        std::fs::write(&certificate, &first.0).unwrap();
        std::fs::write(&key, &second.1).unwrap();
        assert!(Certificates::given(&certificate, &key, None).is_err(), "they do not belong together");
        std::fs::write(&key, &first.1).unwrap();
        let certificates = Certificates::given(&certificate, &key, None).unwrap();
        assert!(certificates.authority().is_none());
        let Source::Given { loaded, .. } = &certificates.source else { panic!("not given") };
        let old = Arc::clone(&loaded.lock().unwrap().config);
        // A rename, so that the file is another one whatever the clock's grain.
        std::fs::write(dir.join("new"), &second.0).unwrap();
        std::fs::rename(dir.join("new"), &certificate).unwrap();
        loaded.lock().unwrap().refresh(&certificate, &key);
        assert!(Arc::ptr_eq(&old, &loaded.lock().unwrap().config), "half a change was taken");
        std::fs::write(dir.join("new"), &second.1).unwrap();
        std::fs::rename(dir.join("new"), &key).unwrap();
        loaded.lock().unwrap().refresh(&certificate, &key);
        assert!(!Arc::ptr_eq(&old, &loaded.lock().unwrap().config));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
