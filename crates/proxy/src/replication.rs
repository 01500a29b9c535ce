//! What must not pass on connections for replication.
//!
//! Branches share their history, so a server's identifier and timeline do not tell one from another:
//! the log of one, replayed on a copy of another, would be taken for its own and tear the data apart
//! without a word. What does tell them apart are replication slots, which are never inherited. So the
//! physical log is only streamed by way of a slot of the branch itself; a standby or an archive of
//! another branch has none here.

use crate::refusal::{Refusal, sqlstate};

/// More of a command than this is not needed to know it.
const ENOUGH: usize = 48;

const STREAM: &[u8] = b"START_REPLICATION";

/// Follows what a client sends, message by message.
#[derive(Default)]
pub struct Inspector {
    head: Vec<u8>,
    /// Bytes of the message's body that are still to come.
    left: usize,
    /// The beginning of a query, in upper case, with single spaces.
    command: Vec<u8>,
}

impl Inspector {
    /// Looks at the next bytes. They may pass on if there is no error.
    ///
    /// # Errors
    /// With these bytes a command would be complete that must not pass.
    pub fn inspect(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.head.len() < 5 {
                self.head.push(first);
                bytes = rest;
                if let [_, a, b, c, d] = *self.head {
                    self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                }
            } else {
                let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= body.len();
                bytes = rest;
                if self.head[0] == b'Q' {
                    self.collect(body);
                }
            }
            if self.head.len() == 5 && self.left == 0 {
                self.end_of_message()?;
            }
        }
        Ok(())
    }

    fn collect(&mut self, body: &[u8]) {
        for byte in body {
            if self.command.len() >= ENOUGH {
                return;
            }
            let is_space = byte.is_ascii_whitespace() || *byte == 0x0b;
            match (is_space, self.command.last()) {
                (true, None | Some(b' ')) => {}
                (true, Some(_)) => self.command.push(b' '),
                (false, _) => self.command.push(byte.to_ascii_uppercase()),
            }
        }
    }

    fn end_of_message(&mut self) -> Result<(), Refusal> {
        self.head.clear();
        let command = std::mem::take(&mut self.command);
        let Some(rest) = command.strip_prefix(STREAM) else { return Ok(()) };
        let mut words = rest.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
        if words.find(|word| !word.is_empty()) == Some(b"SLOT") {
            return Ok(());
        }
        let message = "the log of a branch is only streamed through a replication slot of that branch";
        Err(Refusal::new(sqlstate::NOT_IN_STATE, message).with_hint(
            "make one with pg_create_physical_replication_slot(), and name it: primary_slot_name, \
             pg_receivewal --slot; without one, the log of another branch could be mistaken for it",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message;

    fn passes(commands: &[&str], size: usize) -> bool {
        let bytes: Vec<u8> =
            commands.iter().flat_map(|text| message(b'Q', format!("{text}\0").as_bytes())).collect();
        let mut inspector = Inspector::default();
        bytes.chunks(size).all(|chunk| inspector.inspect(chunk).is_ok())
    }

    #[test]
    fn streams_need_a_slot() {
        for size in [1, 3, 1000] {
            for good in [
                "IDENTIFY_SYSTEM",
                "BASE_BACKUP ( LABEL 'START_REPLICATION 0/1' )",
                "START_REPLICATION SLOT s PHYSICAL 0/1000000 TIMELINE 1",
                "START_REPLICATION SLOT \"s\" LOGICAL 0/0",
                "SELECT 'START_REPLICATION 0/1'",
            ] {
                assert!(passes(&[good, good], size), "{good}");
            }
            for bad in [
                "START_REPLICATION 0/1000000",
                "START_REPLICATION PHYSICAL 0/1000000 TIMELINE 1",
                " \t\n\x0bSTART_REPLICATION\n 0/1000000",
                "start_replication 0/1",
                "START_REPLICATION slots 0/1",
                &format!("{}START_REPLICATION 0/1", " ".repeat(500)),
            ] {
                assert!(!passes(&["IDENTIFY_SYSTEM", bad], size), "{bad}");
            }
        }
    }

    #[test]
    fn other_messages_pass_whatever_is_in_them() {
        let mut bytes = message(b'd', b"START_REPLICATION 0/1\0");
        bytes.extend(message(b'c', b""));
        bytes.extend(message(b'Q', &[b'x'; 100_000]));
        assert!(Inspector::default().inspect(&bytes).is_ok());
        // Lengths that cannot be are the server's to complain of.
        assert!(Inspector::default().inspect(b"Q\0\0\0\0Q\xff\xff\xff\xffSTART_REPLICATION 0/1").is_ok());
    }
}
