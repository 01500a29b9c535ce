//! Keys of foreign issuers, fetched and kept for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use auth::external::KeySet;
use serde::Deserialize;

/// Keys are fetched anew after this long.
const FRESH: Duration = Duration::from_secs(3600);

/// An issuer that does not answer is asked again after this long; so is one whose keys lack the
/// one that a token names.
const PAUSE: Duration = Duration::from_secs(60);

/// Keys older than this are not used, even if the issuer does not answer.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// One call to an issuer may take this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// More bytes than this are not read from an issuer.
const LONGEST: u64 = 1 << 20;

/// Keys of each issuer.
pub(crate) struct IssuerKeys {
    agent: ureq::Agent,
    known: Mutex<HashMap<String, Arc<Mutex<Entry>>>>,
}

#[derive(Default)]
struct Entry {
    keys: Option<(Arc<KeySet>, Duration)>,
    asked: Option<Duration>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Default for IssuerKeys {
    fn default() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            // An issuer's keys are where it says, nowhere else.
            .max_redirects(0)
            .user_agent(concat!("anabranch/", env!("CARGO_PKG_VERSION")))
            .build();
        IssuerKeys { agent: config.into(), known: Mutex::default() }
    }
}

impl IssuerKeys {
    /// Keys of an issuer, with the one named `kid` where it has it. `steady` is the time by a clock
    /// that nobody sets. Blocks while it asks.
    ///
    /// # Errors
    /// The issuer cannot be asked and nothing is known of it; the text says why.
    pub fn get(
        &self,
        issuer: &str,
        jwks_uri: Option<&str>,
        kid: Option<&str>,
        steady: Duration,
    ) -> Result<Arc<KeySet>, String> {
        let place = format!("{issuer} {}", jwks_uri.unwrap_or_default());
        let entry =
            Arc::clone(self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(place).or_default());
        // Held while asking, so that many tokens at once make one call.
        let mut entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        let age = entry.keys.as_ref().map(|(_, fetched)| steady.saturating_sub(*fetched));
        let fits = entry.keys.as_ref().is_some_and(|(keys, _)| kid.is_none_or(|kid| keys.contains(kid)));
        let rested = entry.asked.is_none_or(|asked| steady.saturating_sub(asked) >= PAUSE);
        let mut failure = None;
        if (!fits || age.is_none_or(|age| age >= FRESH)) && rested {
            entry.asked = Some(steady);
            match self.fetch(issuer, jwks_uri) {
                Ok(keys) => entry.keys = Some((Arc::new(keys), steady)),
                Err(text) => {
                    tracing::warn!(issuer, error = text, "cannot get the issuer's keys");
                    failure = Some(text);
                }
            }
        }
        match &entry.keys {
            Some((keys, fetched)) if steady.saturating_sub(*fetched) < STALE => Ok(Arc::clone(keys)),
            _ => {
                Err(failure.unwrap_or_else(|| format!("the keys of {issuer} could not be had a moment ago")))
            }
        }
    }

    fn fetch(&self, issuer: &str, jwks_uri: Option<&str>) -> Result<KeySet, String> {
        let uri = match jwks_uri {
            Some(uri) => uri.to_owned(),
            None => self.discover(issuer)?,
        };
        KeySet::parse(&self.read(&uri)?).ok_or_else(|| format!("{uri} is no JWKS document"))
    }

    fn discover(&self, issuer: &str) -> Result<String, String> {
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let found: Discovery = serde_json::from_slice(&self.read(&place)?)
            .map_err(|_| format!("{place} is no discovery document"))?;
        if found.issuer != issuer {
            return Err(format!("{place} speaks for another issuer ({})", found.issuer));
        }
        check_url(&found.jwks_uri).map_err(|text| format!("{place}: {text}"))?;
        Ok(found.jwks_uri)
    }

    fn read(&self, url: &str) -> Result<Vec<u8>, String> {
        check_url(url)?;
        let failed = |error: ureq::Error| format!("{url}: {error}");
        let mut response = self.agent.get(url).header("accept", "application/json").call().map_err(failed)?;
        response.body_mut().with_config().limit(LONGEST).read_to_vec().map_err(failed)
    }
}

/// Keys decide who is let in, so they come over TLS, or from this machine.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    let host_of = |rest: &str| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let port = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        port.map_or(authority, |(host, _)| host).to_owned()
    };
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic()) && !url.contains('@');
    let allowed = if let Some(rest) = url.strip_prefix("https://") {
        !host_of(rest).is_empty()
    } else if let Some(rest) = url.strip_prefix("http://") {
        matches!(host_of(rest).as_str(), "localhost" | "127.0.0.1" | "[::1]")
    } else {
        false
    };
    if plain && allowed { Ok(()) } else { Err(format!("\"{url}\" must be an https:// URL")) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A server that answers each path with what `answer` says, and counts.
    struct Server {
        base: String,
        calls: Arc<AtomicUsize>,
        end: Arc<std::sync::atomic::AtomicBool>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Server {
        fn new(answer: impl Fn(&str, &str) -> String + Send + 'static) -> Server {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let (calls, end) = (Arc::<AtomicUsize>::default(), Arc::default());
            let (counter, ended, own) =
                (Arc::clone(&calls), Arc::<std::sync::atomic::AtomicBool>::clone(&end), base.clone());
            let thread = std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if ended.load(Ordering::Acquire) {
                        return;
                    }
                    let mut stream = stream.unwrap();
                    let mut request = [0; 4096];
                    let length = stream.read(&mut request).unwrap();
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    let path = text.split(' ').nth(1).unwrap_or_default();
                    counter.fetch_add(1, Ordering::AcqRel);
                    let _ = stream.write_all(answer(&own, path).as_bytes());
                }
            });
            Server { base, calls, end, thread: Some(thread) }
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::Acquire)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.end.store(true, Ordering::Release);
            let _ = std::net::TcpStream::connect(self.base.trim_start_matches("http://"));
            self.thread.take().unwrap().join().unwrap();
        }
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn good(base: &str, path: &str) -> String {
        match path {
            "/.well-known/openid-configuration" => {
                ok(&format!(r#"{{"issuer":"{base}","jwks_uri":"{base}/keys"}}"#))
            }
            "/keys" => ok(&auth::Keyring::new(auth::SigningKey::generate().unwrap(), Vec::new())
                .unwrap()
                .jwks()
                .to_string()),
            _ => "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned(),
        }
    }

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn keys_are_fetched_once_in_a_while() {
        let server = Server::new(good);
        let keys = IssuerKeys::default();
        let get = |second| keys.get(&server.base, None, None, seconds(second));
        get(0).unwrap();
        assert_eq!(server.calls(), 2, "discovery and keys");
        get(3599).unwrap();
        assert_eq!(server.calls(), 2);
        get(3600).unwrap();
        assert_eq!(server.calls(), 4);
    }

    #[test]
    fn an_unknown_key_is_asked_for_but_not_all_the_time() {
        let server = Server::new(good);
        let keys = IssuerKeys::default();
        let get = |second| keys.get(&server.base, None, Some("new"), seconds(second));
        for second in [0, 1, 59] {
            assert!(!get(second).unwrap().contains("new"));
            assert_eq!(server.calls(), 2, "{second}");
        }
        get(60).unwrap();
        assert_eq!(server.calls(), 4);
    }

    #[test]
    fn what_is_known_serves_while_the_issuer_is_away() {
        let keys = IssuerKeys::default();
        let server = Server::new(good);
        let base = server.base.clone();
        let get = |second| keys.get(&base, None, None, seconds(second));
        get(0).unwrap();
        drop(server);
        assert!(get(7200).is_ok());
        assert!(get(24 * 3600).is_err(), "but not for ever");
    }

    #[test]
    fn an_issuer_speaks_for_itself_only() {
        let server = Server::new(|base, path| match path {
            "/.well-known/openid-configuration" => {
                ok(&format!(r#"{{"issuer":"https://other.example","jwks_uri":"{base}/keys"}}"#))
            }
            _ => ok(r#"{"keys":[]}"#),
        });
        let error = IssuerKeys::default().get(&server.base, None, None, seconds(0)).unwrap_err();
        assert!(error.contains("another issuer"), "{error}");
        let moved = Server::new(|_, _| {
            "HTTP/1.1 302 Found\r\nlocation: https://evil.example/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                .to_owned()
        });
        let direct = format!("{}/keys", moved.base);
        assert!(IssuerKeys::default().get(&moved.base, Some(&direct), None, seconds(0)).is_err());
        assert_eq!(moved.calls(), 1, "a redirect is not followed");
    }

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for good in ["https://x.example", "https://x.example:8443/a", "http://localhost:1/", "http://[::1]:1"]
        {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "https://",
            "http://x.example",
            "http://localhost.x.example/",
            "http://localhost@x.example/",
            "https://user:pw@x.example",
            "ftp://localhost",
            "file:///etc/passwd",
            "https://x.example/a b",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
