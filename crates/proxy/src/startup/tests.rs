use super::*;

fn body(code: u32, rest: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), rest].concat()
}

fn startup(rest: &[u8]) -> Result<Startup, Malformed> {
    match parse(&body(PROTOCOL_3_0, rest))? {
        Packet::Startup(startup) => Ok(startup),
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_are_told_apart() {
    assert_eq!(parse(&body(SSL_REQUEST, b"")), Ok(Packet::Ssl));
    assert_eq!(parse(&body(GSS_ENCRYPTION_REQUEST, b"")), Ok(Packet::Gss));
    let key = CancelKey { process: 7, secret: 0xdead_beef };
    assert_eq!(parse(&key.encode()[4..]), Ok(Packet::Cancel(key)));
    assert_eq!(parse(&body(CANCEL_REQUEST, b"1234567")), Err(Malformed::Length));
    assert_eq!(parse(&body(CANCEL_REQUEST, b"123456789")), Err(Malformed::Length));
    assert_eq!(parse(&body(SSL_REQUEST, b"x")), Err(Malformed::Length));
    assert_eq!(parse(&body(2 << 16, b"")), Err(Malformed::Protocol { major: 2, minor: 0 }));
    assert_eq!(parse(b"GET"), Err(Malformed::Length));
}

#[test]
fn lengths_are_bounded() {
    assert_eq!(body_length(7u32.to_be_bytes()), Err(Malformed::Length));
    assert_eq!(body_length(8u32.to_be_bytes()), Ok(4));
    assert_eq!(body_length(10_000u32.to_be_bytes()), Ok(9_996));
    assert_eq!(body_length(10_001u32.to_be_bytes()), Err(Malformed::Length));
    assert_eq!(body_length(*b"GET "), Err(Malformed::Length));
}

#[test]
fn parameters_are_read_and_written() {
    let rest = b"user\0ana@example.org\0database\0db\0application_name\0caf\xe9\0\0";
    let packet = startup(rest).unwrap();
    assert_eq!(packet.user(), Some("ana@example.org"));
    assert_eq!(packet.get("application_name"), Some(b"caf\xe9".as_slice()));
    assert_eq!(packet.get("options"), None);
    let bytes = packet.encode();
    assert_eq!(body_length(bytes[..4].try_into().unwrap()), Ok(bytes.len() - 4));
    assert_eq!(&bytes[8..], rest);
    assert_eq!(startup(b"\0").unwrap().user(), None);
    assert_eq!(startup(b"user\0\0\0").unwrap().user(), None);
    assert_eq!(startup(b"user\0\xff\0\0").unwrap().user(), None);
}

#[test]
fn layouts_that_do_not_end_are_refused() {
    for rest in [b"".as_slice(), b"user", b"user\0", b"user\0x", b"user\0x\0", b"user\0x\0\0y", b"\0\0"] {
        assert_eq!(startup(rest), Err(Malformed::Layout), "{rest:?}");
    }
}

#[test]
fn the_last_of_equal_names_counts() {
    let packet = startup(b"user\0a\0user\0b\0\0").unwrap();
    assert_eq!(packet.user(), Some("b"));
    assert_eq!(packet.parameters.len(), 1);
}

#[test]
fn extensions_are_taken_out() {
    let mut plain = startup(b"user\0a\0\0").unwrap();
    assert_eq!(plain.negotiate(), None);
    let mut packet = Startup { minor: 2, ..startup(b"_pq_.x\0on\0user\0a\0\0").unwrap() };
    assert_eq!(packet.negotiate(), Some(vec![b"_pq_.x".to_vec()]));
    assert_eq!((packet.minor, packet.parameters.len()), (0, 1));
    let mut newer = Startup { minor: 2, ..plain };
    assert_eq!(newer.negotiate(), Some(Vec::new()));
}

#[test]
fn kinds_of_replication() {
    let kind = |value: &[u8]| {
        let mut packet = Startup::default();
        packet.set(b"replication", value);
        packet.replication()
    };
    assert_eq!(Startup::default().replication(), Replication::None);
    assert_eq!(kind(b"database"), Replication::Logical);
    for value in [b"true".as_slice(), b"on", b"1", b"YES", b"what?"] {
        assert_eq!(kind(value), Replication::Physical);
    }
    assert_eq!(kind(b"false"), Replication::None);
}
