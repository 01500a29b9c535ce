//! What a client sends before it is logged in, as bytes. Pure: it is fed by strangers, so it does
//! nothing but look at what it is given, and never panics.

/// Longest packet that is read before the login, its length word included; PostgreSQL's own limit.
pub const MAX_PACKET: usize = 10_000;

/// Version 3.0 of the protocol, the only one that is spoken to servers.
pub const PROTOCOL_3_0: u32 = 3 << 16;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_ENCRYPTION_REQUEST: u32 = 80_877_104;

/// Names of parameters that ask for extensions of the protocol begin with this.
const EXTENSION: &[u8] = b"_pq_.";

/// What a packet of the beginning asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Encryption by TLS.
    Ssl,
    /// Encryption by GSSAPI.
    Gss,
    /// The end of what another session is doing.
    Cancel(CancelKey),
    /// A session.
    Startup(Startup),
}

/// What a client proves with that it may cancel a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// Process of the session, or what the client takes for it.
    pub process: u32,
    /// Its secret.
    pub secret: u32,
}

/// The start-up packet proper.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Startup {
    /// Minor version of the protocol that the client would like to speak.
    pub minor: u16,
    /// Names and values as sent, in no particular encoding. Of equal names the last counts, as for
    /// PostgreSQL, and only that one is here.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Kinds of replication that a session may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// An ordinary session.
    None,
    /// The log and files of the whole server.
    Physical,
    /// Changes of one database.
    Logical,
}

/// Why a packet is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length word is impossible.
    #[error("invalid length of startup packet")]
    Length,
    /// The parameters do not end where the packet does.
    #[error("invalid startup packet layout")]
    Layout,
    /// Another major version.
    #[error("unsupported frontend protocol {major}.{minor}: this server speaks 3.0")]
    Protocol {
        /// Major version asked for.
        major: u16,
        /// Minor version asked for.
        minor: u16,
    },
}

/// Length of what follows the length word.
///
/// # Errors
/// No packet has this length.
pub fn body_length(word: [u8; 4]) -> Result<usize, Malformed> {
    let length = usize::try_from(u32::from_be_bytes(word)).map_err(|_| Malformed::Length)?;
    if (8..=MAX_PACKET).contains(&length) { Ok(length - 4) } else { Err(Malformed::Length) }
}

/// Reads what follows the length word.
///
/// # Errors
/// It is no packet of the beginning.
pub fn parse(body: &[u8]) -> Result<Packet, Malformed> {
    let (code, rest) = take_u32(body).ok_or(Malformed::Length)?;
    match code {
        SSL_REQUEST if rest.is_empty() => Ok(Packet::Ssl),
        GSS_ENCRYPTION_REQUEST if rest.is_empty() => Ok(Packet::Gss),
        SSL_REQUEST | GSS_ENCRYPTION_REQUEST => Err(Malformed::Length),
        CANCEL_REQUEST => parse_cancel(rest).map(Packet::Cancel),
        version => parse_startup(version, rest).map(Packet::Startup),
    }
}

fn parse_cancel(rest: &[u8]) -> Result<CancelKey, Malformed> {
    let (process, rest) = take_u32(rest).ok_or(Malformed::Length)?;
    let (secret, rest) = take_u32(rest).ok_or(Malformed::Length)?;
    if rest.is_empty() { Ok(CancelKey { process, secret }) } else { Err(Malformed::Length) }
}

fn parse_startup(version: u32, mut rest: &[u8]) -> Result<Startup, Malformed> {
    let (major, minor) = ((version >> 16) as u16, version as u16);
    if major != 3 {
        return Err(Malformed::Protocol { major, minor });
    }
    let mut startup = Startup { minor, parameters: Vec::new() };
    loop {
        let name = take_text(&mut rest).ok_or(Malformed::Layout)?;
        if name.is_empty() {
            break;
        }
        let value = take_text(&mut rest).ok_or(Malformed::Layout)?;
        startup.set(name, value);
    }
    if rest.is_empty() { Ok(startup) } else { Err(Malformed::Layout) }
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*word), rest))
}

/// The text before the next zero byte.
fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let text = &bytes[..end];
    *bytes = &bytes[end + 1..];
    Some(text)
}

impl Startup {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.parameters.iter().find(|(other, _)| other == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// Gives a parameter a value. Names and values hold no zero bytes; what follows one is cut off.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let whole = |text: &[u8]| text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match self.parameters.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = whole(value),
            None => self.parameters.push((whole(name), whole(value))),
        }
    }

    /// Removes a parameter.
    pub fn remove(&mut self, name: &str) {
        self.parameters.retain(|(other, _)| other != name.as_bytes());
    }

    /// The role to log in as, where there is one and it is UTF-8.
    pub fn user(&self) -> Option<&str> {
        self.get("user").and_then(|user| std::str::from_utf8(user).ok()).filter(|user| !user.is_empty())
    }

    /// What the session is for. A value that PostgreSQL would not understand counts as physical.
    pub fn replication(&self) -> Replication {
        let Some(value) = self.get("replication") else { return Replication::None };
        match value.to_ascii_lowercase().as_slice() {
            b"database" => Replication::Logical,
            b"" | b"false" | b"off" | b"no" | b"0" | b"f" | b"n" => Replication::None,
            _ => Replication::Physical,
        }
    }

    /// Takes out the extensions of the protocol that the client asked for. Gives their names where the
    /// client has to be told that it gets less than it wanted.
    pub fn negotiate(&mut self) -> Option<Vec<Vec<u8>>> {
        let (extensions, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.parameters)
            .into_iter()
            .partition(|(name, _)| name.starts_with(EXTENSION));
        self.parameters = kept;
        let wanted_more = self.minor > 0 || !extensions.is_empty();
        self.minor = 0;
        wanted_more.then(|| extensions.into_iter().map(|(name, _)| name).collect())
    }

    /// The packet with its length, in version 3.0.
    pub fn encode(&self) -> Vec<u8> {
        let mut packet = vec![0; 4];
        packet.extend(PROTOCOL_3_0.to_be_bytes());
        for (name, value) in &self.parameters {
            for text in [name, value] {
                packet.extend(text);
                packet.push(0);
            }
        }
        packet.push(0);
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        packet[..4].copy_from_slice(&length.to_be_bytes());
        packet
    }
}

impl CancelKey {
    /// The cancel request with its length.
    pub fn encode(self) -> [u8; 16] {
        let mut packet = [0; 16];
        for (place, word) in [16, CANCEL_REQUEST, self.process, self.secret].into_iter().enumerate() {
            packet[place * 4..place * 4 + 4].copy_from_slice(&word.to_be_bytes());
        }
        packet
    }
}

#[cfg(test)]
mod tests;
