//! The quickstart as a new user runs it: with an empty home, as root and as an ordinary user.
#![allow(clippy::unwrap_used)]

mod desk;

use std::io::Write;

use compute::os;
use compute::run_as;
use desk::Desk;

fn shows_everything(desk: &Desk) {
    let first = desk.succeed(&["quickstart"]);
    assert!(first.contains("101 there, still 100 in production"), "{first}");
    assert!(first.contains("postgresql://"), "{first}");
    let url = desk.succeed(&["url", "dev", "--project", "shop"]);
    assert!(url.starts_with("postgresql://"), "{url}");
    assert!(url.contains("sslmode=verify-full&sslrootcert=/"), "{url}");
    let who = ["psql", "dev", "--project", "shop", "--", "-c", "SELECT session_user, 'as ' || current_user"];
    let seen = desk.succeed(&who);
    assert!(seen.contains("as ") && !seen.contains("as anabranch"), "{seen}");
    let superuser = [&who[..4], &["--superuser"], &who[4..]].concat();
    let seen = desk.succeed(&superuser);
    assert!(seen.contains("as anabranch"), "{seen}");
    let certificate = desk.succeed(&["ca"]);
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"), "{certificate}");
    let rows = desk.succeed(&["branch", "list", "--project", "shop", "--json"]);
    assert!(rows.contains("\"dev\"") && rows.contains("\"production\""), "{rows}");
    let again = desk.succeed(&["quickstart"]);
    assert!(again.contains("101 there, still 100 in production"), "{again}");
    desk.succeed(&["quickstart", "--clean"]);
    let left = desk.succeed(&["quickstart", "--clean"]);
    assert!(!left.contains("error"), "{left}");
}

#[test]
fn an_ordinary_user_sees_a_branch_made_written_to_and_thrown_away() {
    let user = run_as::choose(None).unwrap().map(|choice| choice.user);
    shows_everything(&Desk::new("user", user));
}

#[test]
fn so_does_root() {
    if os::effective_uid() != 0 {
        // Past the harness's capture, for the summary of a CI run.
        let line = b"SKIPPED: quickstart as root: the tests are not run by root\n";
        std::io::stderr().write_all(line).unwrap();
        return;
    }
    shows_everything(&Desk::new("root", None));
}
