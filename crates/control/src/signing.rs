//! The keys that sign tokens: private halves as files, public ones in the database.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use auth::{ACCESS_SECONDS, DATABASE_SECONDS, Keyring, SigningKey};
use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use crate::db::Db;
use crate::db::signing_keys::{self, KeyRow};
use crate::error::Error;
use crate::keys::{make_private_dir, replace_durably};

/// A key signs this long unless it is replaced earlier.
const ROTATE_AFTER: SignedDuration = SignedDuration::from_hours(90 * 24);

/// A retired key is trusted until the last token that it signed has expired, and a little longer.
const OVERLAP: SignedDuration = SignedDuration::from_secs(
    if ACCESS_SECONDS > DATABASE_SECONDS { ACCESS_SECONDS } else { DATABASE_SECONDS } + 300,
);

/// The keyring, and where it is kept.
pub(crate) struct Signing {
    dir: PathBuf,
    ring: RwLock<Arc<Keyring>>,
    /// When the key that signs is due to be replaced, and when something retired is to be forgotten.
    due: Mutex<Due>,
}

struct Due {
    rotate: Timestamp,
    forget: Option<Timestamp>,
}

impl Signing {
    /// Reads the keys below `dir`, and makes the first one.
    pub fn open(dir: PathBuf, db: &Db, now: Timestamp) -> Result<Signing, Error> {
        make_private_dir(&dir)?;
        let mut rows = db.read(signing_keys::list)?;
        let active = rows.iter().find(|row| row.retire_time.is_none());
        let found = active.map(|row| (row.create_time, read_key(&dir, &row.public.kid)));
        let (since, key) = match found {
            Some((since, Ok(key))) => (since, key),
            other => {
                if let Some((_, Err(error))) = other {
                    // What it signed stays valid: the public half is known.
                    tracing::error!(%error, "the signing key is lost; a new one is made");
                }
                let key = add_key(&dir, db, now)?;
                rows = db.read(signing_keys::list)?;
                (now, key)
            }
        };
        let (ring, forget) = ring_of(key, rows)?;
        sweep(&dir, ring.active());
        let due = Mutex::new(Due { rotate: since + ROTATE_AFTER, forget });
        Ok(Signing { dir, ring: RwLock::new(Arc::new(ring)), due })
    }

    /// The keys in use.
    pub fn ring(&self) -> Arc<Keyring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Signs with a new key from now on; what the old ones signed stays valid until it expires.
    /// Name of the new key.
    pub fn rotate(&self, db: &Db, now: Timestamp) -> Result<String, Error> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let key = add_key(&self.dir, db, now)?;
        self.renew(&mut due, db, key, now + ROTATE_AFTER)
    }

    /// Does what is due: replaces an old key, forgets those whose tokens have all expired.
    pub fn maintain(&self, db: &Db, now: Timestamp) -> Result<(), Error> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.rotate <= now {
            let key = add_key(&self.dir, db, now)?;
            let kid = self.renew(&mut due, db, key, now + ROTATE_AFTER)?;
            tracing::info!(kid, "the signing key was replaced");
        }
        if due.forget.is_some_and(|time| time <= now) {
            db.write(|tx| signing_keys::remove_retired(tx, now - OVERLAP))?;
            let key = read_key(&self.dir, self.ring().active())?;
            let rotate = due.rotate;
            self.renew(&mut due, db, key, rotate)?;
        }
        Ok(())
    }

    fn renew(&self, due: &mut Due, db: &Db, key: SigningKey, rotate: Timestamp) -> Result<String, Error> {
        let (ring, forget) = ring_of(key, db.read(signing_keys::list)?)?;
        let kid = ring.active().to_owned();
        *due = Due { rotate, forget };
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        sweep(&self.dir, &kid);
        Ok(kid)
    }
}

/// Makes a key: its file first, since a row without a file could not sign. The others retire.
fn add_key(dir: &Path, db: &Db, now: Timestamp) -> Result<SigningKey, Error> {
    let key = SigningKey::generate().map_err(|error| Error::Internal(error.to_string()))?;
    replace_durably(dir, &path_of(dir, &key.public().kid), key.pkcs8())
        .map_err(|source| Error::io("cannot write the signing key", source))?;
    let row = KeyRow { public: key.public().clone(), create_time: now, retire_time: None };
    db.write(|tx| {
        signing_keys::retire_all(tx, now)?;
        signing_keys::insert(tx, &row)
    })?;
    Ok(key)
}

fn ring_of(key: SigningKey, rows: Vec<KeyRow>) -> Result<(Keyring, Option<Timestamp>), Error> {
    let forget = rows.iter().filter_map(|row| row.retire_time).min().map(|time| time + OVERLAP);
    let retired = rows.into_iter().filter(|row| row.retire_time.is_some()).map(|row| row.public).collect();
    let ring = Keyring::new(key, retired).map_err(|error| Error::Internal(error.to_string()))?;
    Ok((ring, forget))
}

fn read_key(dir: &Path, kid: &str) -> Result<SigningKey, Error> {
    let path = path_of(dir, kid);
    let bytes = std::fs::read(&path)
        .map_err(|source| Error::io(format!("cannot read {}", path.display()), source))?;
    let bytes = Zeroizing::new(bytes);
    let key = SigningKey::from_pkcs8(&bytes)
        .map_err(|error| Error::Internal(format!("{}: {error}", path.display())))?;
    if key.public().kid != kid {
        return Err(Error::Internal(format!("{} holds another key", path.display())));
    }
    Ok(key)
}

/// Private halves that sign no more serve nobody but a thief.
fn sweep(dir: &Path, active: &str) {
    let keep = path_of(dir, active);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path() != keep
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "cannot remove an old signing key");
        }
    }
}

fn path_of(dir: &Path, kid: &str) -> PathBuf {
    dir.join(format!("{kid}.p8"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use auth::{Audience, Claims, Refusal};

    use super::*;

    struct Fixture {
        dir: PathBuf,
        db: Db,
    }

    impl Fixture {
        fn new(name: &str) -> Fixture {
            let dir = std::env::temp_dir().join(format!("ana-signing-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            let db = Db::open(&dir.join("meta.db")).unwrap();
            Fixture { dir, db }
        }

        fn open(&self, second: i64) -> Signing {
            Signing::open(self.dir.join("signing"), &self.db, at(second)).unwrap()
        }

        fn files(&self) -> Vec<PathBuf> {
            std::fs::read_dir(self.dir.join("signing")).unwrap().map(|entry| entry.unwrap().path()).collect()
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn token(signing: &Signing, second: i64) -> String {
        let claims = Claims {
            iss: "i".into(),
            aud: Audience::Api.as_str().into(),
            sub: "s".into(),
            uid: "u".into(),
            kind: "user".into(),
            endpoint: None,
            group: None,
            scope: None,
            iat: at(second).as_second(),
            exp: at(second + 3600).as_second(),
            jti: "j".into(),
        };
        signing.ring().sign(Audience::Api, &claims).unwrap().expose().to_owned()
    }

    fn check(signing: &Signing, token: &str, second: i64) -> Result<(), Refusal> {
        signing.ring().verify(token, Audience::Api, "i", at(second)).map(drop)
    }

    #[test]
    fn the_key_is_private_and_stays_over_a_restart() {
        let fixture = Fixture::new("restart");
        let first = fixture.open(0);
        let token = token(&first, 0);
        let files = fixture.files();
        assert_eq!(files.len(), 1);
        assert_eq!(std::fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
        let again = fixture.open(10);
        assert_eq!(again.ring().active(), first.ring().active());
        assert_eq!(check(&again, &token, 10), Ok(()));
    }

    #[test]
    fn rotation_overlaps() {
        let fixture = Fixture::new("rotation");
        let signing = fixture.open(0);
        let (old, old_token) = (signing.ring().active().to_owned(), token(&signing, 0));
        let new = signing.rotate(&fixture.db, at(100)).unwrap();
        assert_ne!(new, old);
        assert_eq!(check(&signing, &old_token, 3599), Ok(()));
        assert_eq!(fixture.files().len(), 1, "the old private half is gone");
        let restarted = fixture.open(200);
        assert_eq!(restarted.ring().active(), new);
        assert_eq!(check(&restarted, &old_token, 3599), Ok(()));
        assert_eq!(restarted.ring().jwks()["keys"].as_array().unwrap().len(), 2);
        restarted.maintain(&fixture.db, at(3600)).unwrap();
        assert_eq!(restarted.ring().jwks()["keys"].as_array().unwrap().len(), 2, "still needed");
        restarted.maintain(&fixture.db, at(100 + 3600 + 301)).unwrap();
        assert_eq!(restarted.ring().jwks()["keys"].as_array().unwrap().len(), 1);
        assert_eq!(restarted.ring().active(), new);
    }

    #[test]
    fn an_old_key_is_replaced_by_itself() {
        let fixture = Fixture::new("age");
        let signing = fixture.open(0);
        let first = signing.ring().active().to_owned();
        signing.maintain(&fixture.db, at(89 * 86_400)).unwrap();
        assert_eq!(signing.ring().active(), first);
        signing.maintain(&fixture.db, at(90 * 86_400)).unwrap();
        assert_ne!(signing.ring().active(), first);
    }

    #[test]
    fn a_lost_key_is_replaced_and_its_tokens_stay_good() {
        let fixture = Fixture::new("lost");
        let first = fixture.open(0);
        let token = token(&first, 0);
        std::fs::remove_file(&fixture.files()[0]).unwrap();
        let second = fixture.open(10);
        assert_ne!(second.ring().active(), first.ring().active());
        assert_eq!(check(&second, &token, 10), Ok(()));
        std::fs::write(&fixture.files()[0], b"damaged").unwrap();
        let third = fixture.open(20);
        assert_eq!(check(&third, &token, 20), Ok(()));
    }
}
