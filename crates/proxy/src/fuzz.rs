//! What strangers may send, made at random from what is right: start-up packets, and both sides of
//! SCRAM. Every run makes new ones; the seed of a case that fails is printed, and
//! `ANA_SEED=… cargo test -p proxy fuzz` runs that case alone.

use std::time::{Duration, SystemTime};

use auth::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;
use ring::{digest, hmac, pbkdf2};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::login::{self, LoginError, Welcome};
use crate::options;
use crate::replication::Inspector;
use crate::route::Selector;
use crate::startup::{self, CancelKey, Packet, Startup};
use crate::wire::{self, SCRAM_SHA_256, authentication};

const PASSWORD: &str = "pencil";
const SALT: &[u8] = b"sixteen bytes...";
const ITERATIONS: u32 = 16;

/// No conversation of the kind below takes as long.
const HANGING: Duration = Duration::from_secs(10);

/// A server that was not understood waits this long for an answer, then hangs up.
const UNANSWERED: Duration = Duration::from_millis(5);

/// Runs `case` with `count` seeds that no run had before, or with the one that is given.
fn for_seeds(count: u64, mut case: impl FnMut(&mut Random)) {
    let given = std::env::var("ANA_SEED").ok().map(|seed| seed.parse().unwrap());
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seeds = match given {
        Some(seed) => seed..seed + 1,
        None => (now >> 1)..(now >> 1) + count,
    };
    for seed in seeds {
        let _told = Told(seed);
        case(&mut Random::new(seed));
    }
}

/// Says which seed it was, where a case fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing seed: ANA_SEED={}", self.0);
        }
    }
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        // Neighbouring seeds shall not begin alike, and none may be zero.
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % limit.max(1) as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Changes bytes in a few places.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        const WORTH_TRYING: [&[u8]; 8] = [
            b"\0",
            b"\xff",
            b"\0\0\0\0",
            b"\0\0\0\x04",
            b"\x7f\xff\xff\xff",
            b"\xff\xff\xff\xff",
            b"=",
            b",",
        ];
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(8)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                3 => bytes.truncate(at),
                4 => drop(bytes.splice(at..end, self.pick(&WORTH_TRYING).to_vec())),
                _ => bytes.insert(at, self.below(256) as u8),
            }
        }
    }
}

#[test]
fn fuzz_start_up() {
    let mut whole = 0;
    let mut most = 0;
    for_seeds(100_000, |random| {
        most += 1;
        let parts: [&[u8]; 12] = [
            b"user\0",
            b"a@b\0",
            b"options\0",
            b"-c endpoint=ep-1\0",
            b"-c\\ endpoint=a/b -cendpoint=x --endpoint=\0",
            b"projects/a/branches/b/endpoints/c\0",
            b"_pq_.x\0",
            b"\0",
            b"\xff\xfe",
            b"replication\0database\0",
            &[0x00, 0x03, 0x00, 0x00],
            &[0x04, 0xd2, 0x16, 0x2f],
        ];
        let mut bytes = match random.below(4) {
            0 => CancelKey { process: 7, secret: random.below(1 << 30) as u32 }.encode().to_vec(),
            _ => {
                let mut bytes = Startup::default().encode();
                bytes.pop();
                for _ in 0..random.below(8) {
                    bytes.extend(random.pick(&parts));
                }
                bytes.push(0);
                bytes
            }
        };
        if random.below(2) == 0 {
            random.spoil(&mut bytes);
        }
        let Some((_, body)) = bytes.split_first_chunk::<4>() else { return };
        let Ok(Packet::Startup(mut packet)) = startup::parse(body) else { return };
        whole += 1;
        let again = startup::parse(&packet.encode()[4..]);
        assert_eq!(again, Ok(Packet::Startup(Startup { minor: 0, ..packet.clone() })), "{bytes:?}");
        let _ = (packet.user(), packet.replication());
        packet.negotiate();
        assert!(packet.parameters.iter().all(|(name, _)| !name.starts_with(b"_pq_.")), "{bytes:?}");
        if let Some(options) = packet.get("options")
            && let Ok((Some(endpoint), rest)) = options::take_endpoint(options)
        {
            let _ = Selector::parse(&endpoint);
            assert!(
                matches!(options::take_endpoint(&rest), Ok((None, _))),
                "it reaches the server: {bytes:?}"
            );
        }
        let _ = Inspector::default().inspect(&bytes);
    });
    assert!(most == 1 || whole > most / 50, "only {whole} of {most} packets were whole");
}

/// A server that is not what it should be lets nobody in, and stops nothing.
#[test]
fn fuzz_scram_of_servers() {
    let runtime = runtime();
    let _inside = runtime.enter();
    for_seeds(4_000, |random| {
        let spoilt = random.below(5);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let secret = Secret::new(PASSWORD.to_owned());
        let startup = some_startup();
        let (outcome, said) = runtime.block_on(async {
            let login = tokio::time::timeout(HANGING, login::log_in(ours, &startup, &secret));
            tokio::join!(login, serve(theirs, random, spoilt))
        });
        let outcome = outcome.unwrap_or_else(|_| panic!("it hangs"));
        match said {
            Said::AsItShould => {
                assert_eq!(outcome.unwrap_or_else(|error| panic!("{error:?}")).greeting, GREETING)
            }
            // What it offers is not signed, and what it says after the proof is its own affair.
            Said::SomethingElse { step: 0 | 3, .. } => drop(outcome),
            Said::SomethingElse { proves, .. } => assert!(proves || outcome.is_err(), "let in without proof"),
        }
    });
}

/// Whatever a client sends: the server judges it, or the login ends.
#[test]
fn fuzz_scram_of_clients() {
    let runtime = runtime();
    let _inside = runtime.enter();
    for_seeds(4_000, |random| {
        let spoilt = random.below(3);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut door, client) = tokio::io::duplex(1 << 16);
        let startup = some_startup();
        let (outcome, ..) = runtime.block_on(async {
            let relay = async {
                let outcome = tokio::time::timeout(HANGING, login::relay(ours, &startup, &mut door)).await;
                drop(door);
                outcome
            };
            let mut calm = Random::new(1);
            tokio::join!(relay, serve(theirs, &mut calm, usize::MAX), knock(client, random, spoilt))
        });
        let outcome: Result<Welcome, LoginError> = outcome.unwrap_or_else(|_| panic!("it hangs"));
        match outcome {
            // The server has seen the proof: all that the client can have added is ignored.
            Ok(welcome) => assert_eq!(welcome.greeting, GREETING),
            Err(error) => assert!(spoilt < 2, "a good client is kept out: {}", error.describe()),
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn some_startup() -> Startup {
    let mut startup = Startup::default();
    startup.set(b"user", b"ana");
    startup
}

/// What a server says behind "you are in": nothing but that it is ready.
const GREETING: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// What a server has said.
enum Said {
    AsItShould,
    SomethingElse {
        /// Which of its messages was another.
        step: usize,
        /// Whether its proof was among what it said all the same.
        proves: bool,
    },
}

/// A server that knows the password, but for one message that is spoilt.
async fn serve(mut stream: UnixStream, random: &mut Random, spoilt: usize) -> Said {
    let mut said = Said::AsItShould;
    // Whoever is at the other end may hang up at any time.
    let _ = converse(&mut stream, random, spoilt, &mut said).await;
    let _ = stream.shutdown().await;
    said
}

async fn converse(
    stream: &mut UnixStream,
    random: &mut Random,
    spoilt: usize,
    said: &mut Said,
) -> std::io::Result<()> {
    wire::read_packet(stream).await?;
    let mut step = 0;
    let mut say = async |stream: &mut UnixStream, message: Vec<u8>, proof: &str| {
        let mut bytes = message.clone();
        if step == spoilt {
            random.spoil(&mut bytes);
            if bytes != message {
                let text = String::from_utf8_lossy(&bytes);
                *said = Said::SomethingElse { step, proves: !proof.is_empty() && text.contains(proof) };
            }
        }
        step += 1;
        stream.write_all(&bytes).await
    };
    say(stream, wire::authentication(authentication::SASL, b"SCRAM-SHA-256\0\0"), "").await?;
    let body = answer(stream, spoilt < 1).await?;
    // The name of the mechanism, a length, `n,,`; then what is signed.
    let client_first = String::from_utf8_lossy(body.get(21..).unwrap_or_default()).into_owned();
    let nonce = client_first.split_once("r=").map_or("", |(_, nonce)| nonce);
    let server_first = format!("r={nonce}more,s={},i={ITERATIONS}", BASE64.encode(SALT));
    say(stream, wire::authentication(authentication::SASL_CONTINUE, server_first.as_bytes()), "").await?;
    let body = answer(stream, spoilt < 2).await?;
    let client_final = String::from_utf8_lossy(&body).into_owned();
    let (unproven, proof) = client_final.rsplit_once(",p=").unwrap_or_default();
    let signed = format!("{client_first},{server_first},{unproven}");
    let mut salted = [0; 32];
    let rounds = std::num::NonZeroU32::new(ITERATIONS).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, SALT, PASSWORD.as_bytes(), &mut salted);
    let client_key = mac(&salted, b"Client Key");
    let signature = mac(digest::digest(&digest::SHA256, &client_key).as_ref(), signed.as_bytes());
    let expected: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
    if BASE64.decode(proof).ok() != Some(expected) {
        return stream.write_all(&wire::message(b'E', b"SFATAL\0C28P01\0Mno\0\0")).await;
    }
    let proof = format!("v={}", BASE64.encode(mac(&mac(&salted, b"Server Key"), signed.as_bytes())));
    say(stream, wire::authentication(authentication::SASL_FINAL, proof.as_bytes()), &proof).await?;
    say(stream, GREETING.to_vec(), "").await
}

async fn answer(stream: &mut UnixStream, may_be_none: bool) -> std::io::Result<Vec<u8>> {
    let patience = if may_be_none { UNANSWERED } else { HANGING };
    let message = tokio::time::timeout(patience, wire::read_message(stream, wire::MAX_PASSWORD)).await;
    Ok(message.map_err(std::io::Error::from)??.1)
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// A client that knows the password, but for one of its two messages that is spoilt and its last.
async fn knock<S>(mut stream: S, random: &mut Random, spoilt: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _ = prove(&mut stream, random, spoilt).await;
    let _ = stream.shutdown().await;
    // The answer, whatever it is.
    let _ = wire::read_message(&mut stream, 1 << 16).await;
}

async fn prove<S>(stream: &mut S, random: &mut Random, spoilt: usize) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut scram = ScramSha256::new(PASSWORD.as_bytes(), ChannelBinding::unsupported());
    for step in 0..2 {
        let (_, body) = wire::read_message(stream, 1 << 16).await?;
        let mut message = BytesMut::new();
        if step == 0 {
            frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut message)?;
        } else {
            scram.update(body.get(4..).unwrap_or_default())?;
            frontend::sasl_response(scram.message(), &mut message)?;
        }
        let mut bytes = message.to_vec();
        if step == spoilt {
            random.spoil(&mut bytes);
            return stream.write_all(&bytes).await;
        }
        stream.write_all(&bytes).await?;
    }
    Ok(())
}
