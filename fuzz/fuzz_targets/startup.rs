//! What strangers send before they are logged in: `cargo +nightly fuzz run startup`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::startup::{self, Packet};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Packet::Startup(mut packet)) = startup::parse(bytes) {
        let again = startup::parse(&packet.encode()[4..]);
        assert!(matches!(again, Ok(Packet::Startup(same)) if same.parameters == packet.parameters));
        if let Some(options) = packet.get("options") {
            let _ = proxy::options::take_endpoint(options);
        }
        let _ = (packet.user(), packet.replication());
        packet.negotiate();
    }
});
