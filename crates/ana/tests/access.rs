//! Tokens, keys, trusted issuers, rights and ways to connect, by hand.
#![allow(clippy::unwrap_used)]

mod desk;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use compute::run_as;
use desk::Desk;
use serde_json::{Value, json};

const OWNER: &str = "owner@example.org";

/// A machine with a daemon and project `shop`.
fn desk(name: &str) -> Desk {
    let desk = Desk::new(name, run_as::choose(None).unwrap().map(|choice| choice.user));
    desk.succeed(&["up", "--owner", OWNER]);
    desk.succeed(&["project", "create", "shop"]);
    desk
}

/// The address of the HTTP API.
fn address(desk: &Desk) -> String {
    desk.json(&["status", "--json"])["http"].as_str().unwrap().to_owned()
}

/// Runs a command as somebody elsewhere who has nothing but a token.
fn with_token(desk: &Desk, token: &str, arguments: &[&str]) -> Output {
    let mut command = desk.command(desk.path.join("ana"));
    command.env("ANABRANCH_HOST", format!("http://{}", address(desk))).env("ANABRANCH_TOKEN", token);
    command.args(arguments).output().unwrap()
}

fn json_with_token(desk: &Desk, token: &str, arguments: &[&str]) -> Value {
    let output = with_token(desk, token, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn whoami(desk: &Desk, token: &str) -> String {
    let me = json_with_token(desk, token, &["auth", "whoami", "--json"]);
    me["name"].as_str().unwrap().to_owned()
}

/// A field of every item of a list.
fn column(list: &Value, field: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

/// A signed token for a client secret, from the token endpoint.
fn access_token(desk: &Desk, secret: &Value) -> String {
    let text = |field: &str| secret[field].as_str().unwrap().to_owned();
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}",
        text("client_id"),
        text("client_secret")
    );
    let address = address(desk);
    let mut stream = TcpStream::connect(&address).unwrap();
    let head = format!(
        "POST /oidc/v1/token HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn tokens_keys_and_issuers_by_hand() {
    let desk = desk("tokens");
    let made = desk.json(&["token", "create", "--name", "laptop", "--json"]);
    let token = made["token"].as_str().unwrap();
    assert_eq!(whoami(&desk, token), OWNER);
    let narrow = desk.json(&["token", "create", "--name", "narrow", "--scope", "read", "--json"]);
    let narrow = narrow["token"].as_str().unwrap();
    assert_eq!(whoami(&desk, narrow), OWNER);
    let create = ["project", "create", "other"];
    desk::refusal(&with_token(&desk, narrow, &create), &create);
    let listed = desk.succeed(&["token", "list"]);
    assert!(listed.contains("laptop") && listed.contains("in 90 days"), "{listed}");
    assert!(!listed.contains(token), "a token is shown once");
    let tokens = desk.json(&["token", "list", "--json"]);
    assert_eq!(column(&tokens, "name"), ["laptop", "narrow"]);
    let id = tokens[0]["id"].as_str().unwrap();
    assert!(desk.succeed(&["token", "revoke", id]).contains("revoked"));
    let me = ["auth", "whoami"];
    let refused = desk::refusal(&with_token(&desk, token, &me), &me);
    assert!(refused.contains("ana token create"), "{refused}");
    assert_eq!(column(&desk.json(&["token", "list", "--json"]), "name"), ["narrow"]);
    desk.refused(&["token", "revoke", id]);

    desk.succeed(&["principal", "create", "ci", "--service"]);
    let secret = desk.json(&["principal", "secret", "ci", "--json"]);
    let before = access_token(&desk, &secret);
    assert_eq!(whoami(&desk, &before), secret["client_id"].as_str().unwrap());
    assert!(desk.succeed(&["auth", "rotate-key"]).contains("signed with key"));
    assert_eq!(whoami(&desk, &before), secret["client_id"].as_str().unwrap(), "its key is still known");
    let after = access_token(&desk, &secret);
    assert_eq!(whoami(&desk, &after), secret["client_id"].as_str().unwrap());
    let head = |token: &str| token.split('.').next().unwrap().to_owned();
    assert_ne!(head(&before), head(&after), "signed with the new key");

    let issuer = "https://token.actions.githubusercontent.com";
    let add = ["auth", "issuer", "add", issuer, "--audience", "anabranch", "--claim", "repository=acme/shop"];
    let told = desk.succeed(&[&add[..], &["--claim", "ref=refs/heads/*", "--principal", "ci"]].concat());
    assert!(told.contains("repository=acme/shop and ref=refs/heads/*"), "{told}");
    assert!(desk.refused(&[&add[..], &["--principal", "nobody"]].concat()).contains("nobody"));
    let bad = [&add[..], &["--principal", "ci", "--claim", "everybody"]].concat();
    assert!(desk.refused(&bad).contains("CLAIM=VALUE"));
    let issuers = desk.json(&["auth", "issuer", "list", "--json"]);
    assert_eq!(column(&issuers, "issuer"), [issuer]);
    assert_eq!(issuers[0]["conditions"], json!(["repository=acme/shop", "ref=refs/heads/*"]));
    assert_eq!(
        (&issuers[0]["audience"], &issuers[0]["algorithms"]),
        (&json!("anabranch"), &json!(["RS256"]))
    );
    assert!(desk.succeed(&["auth", "issuer", "list"]).contains(issuer));
    let id = issuers[0]["id"].as_str().unwrap();
    desk.succeed(&["auth", "issuer", "remove", id]);
    assert_eq!(desk.json(&["auth", "issuer", "list", "--json"]), json!([]));
    desk.refused(&["auth", "issuer", "remove", id]);
}

#[test]
fn rights_by_hand() {
    let desk = desk("rights");
    let bob = "bob@example.org";
    desk.succeed(&["principal", "create", bob]);
    desk.succeed(&["principal", "create", "team", "--group"]);
    let token = desk.json(&["token", "create", "--principal", bob, "--json"]);
    let token = token["token"].as_str().unwrap();
    let seen = || column(&json_with_token(&desk, token, &["project", "list", "--json"]), "project_id");
    let rights = || {
        let rights = desk.json(&["principal", "rights", "--json"]);
        let pairs = column(&rights, "principal").into_iter().zip(column(&rights, "level"));
        pairs.map(|(principal, level)| format!("{principal} {level}")).collect::<Vec<_>>()
    };
    let owners = format!("{OWNER} CAN_MANAGE");
    assert!(seen().is_empty());
    assert_eq!(rights(), [owners.as_str()]);

    let create = ["branch", "create", "dev", "--project", "shop", "--no-wait"];
    desk.succeed(&["principal", "grant", bob, "CAN_USE"]);
    assert_eq!(seen(), ["shop"]);
    assert_eq!(rights(), [owners.as_str(), "bob@example.org CAN_USE"]);
    desk::refusal(&with_token(&desk, token, &create), &create);
    desk.succeed(&["principal", "grant", bob, "CAN_MANAGE", "--project", "shop"]);
    assert_eq!(rights(), [owners.as_str(), "bob@example.org CAN_MANAGE"]);
    let output = with_token(&desk, token, &create);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    desk.succeed(&["principal", "revoke", bob]);
    assert!(seen().is_empty());
    assert!(desk.refused(&["principal", "grant", "nobody", "CAN_USE"]).contains("nobody"));

    desk.succeed(&["principal", "grant", "team", "CAN_USE"]);
    assert!(seen().is_empty());
    desk.succeed(&["principal", "join", "team", bob]);
    assert_eq!(seen(), ["shop"]);
    let me = json_with_token(&desk, token, &["auth", "whoami", "--json"]);
    assert_eq!(me["groups"], json!(["team"]));
    let shown = desk.succeed(&["principal", "rights", "--project", "shop"]);
    let of_team = shown.lines().find(|line| line.starts_with("team")).unwrap();
    assert_eq!(of_team.split_whitespace().collect::<Vec<_>>(), ["team", "group", "team", "CAN_USE"]);
    desk.succeed(&["principal", "leave", "team", bob]);
    assert!(seen().is_empty());
    assert!(desk.refused(&["principal", "rights", "--project", "none"]).contains("no project \"none\""));
}

/// Runs a shell script with `psql`; gives what it printed.
fn shell(desk: &Desk, script: &str) -> String {
    let output = desk.command("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn every_way_to_write_a_connection_down_leads_there() {
    let desk = desk("url");
    let connection = desk.json(&["url", "production", "--json"]);
    let text = |field: &str| connection[field].as_str().unwrap().to_owned();
    assert_eq!((text("role").as_str(), text("database").as_str()), (OWNER, "databricks_postgres"));
    let certificate = desk.json(&["ca", "--json"]);
    assert_eq!(certificate["file"], connection["ca_file"]);
    assert_eq!(certificate["certificate"].as_str().unwrap().trim(), desk.succeed(&["ca"]).trim());

    let url = |more: &[&str]| desk.succeed(&[&["url", "production"], more].concat()).trim().to_owned();
    let place = format!("{}:{}", text("host"), connection["port"]);
    let end = format!("sslmode=verify-full&sslrootcert={}", text("ca_file"));
    let uri = url(&["--no-password"]);
    assert_eq!(uri, format!("postgresql://owner%40example.org@{place}/databricks_postgres?{end}"));
    let jdbc = url(&["--format", "jdbc"]);
    let begin =
        format!("jdbc:postgresql://{place}/databricks_postgres?user=owner%40example.org&password=eyJ");
    assert!(jdbc.starts_with(&begin) && jdbc.ends_with(&end), "{jdbc}");
    for format in ["uri", "env", "jdbc", "dsn"] {
        assert!(url(&["--format", format]).contains("eyJ"), "{format}");
        assert!(!url(&["--format", format, "--no-password"]).contains("eyJ"), "{format}");
        assert!(!url(&["--format", format, "--role", "somebody"]).contains("eyJ"), "{format}");
    }
    assert!(url(&["--database", "other"]).contains("/other?"));

    let environment = desk.succeed(&["env", "production"]);
    let names = environment.lines().map(|line| line.split('=').next().unwrap()).collect::<Vec<_>>();
    let wanted = "PGHOST PGPORT PGUSER PGDATABASE PGSSLMODE PGSSLROOTCERT PGPASSFILE DATABASE_URL";
    assert_eq!(names.join(" "), wanted);
    assert!(!environment.contains("eyJ"), "{environment}");
    let variables = desk.json(&["env", "production", "--json"]);
    assert_eq!(variables["DATABASE_URL"], uri.as_str());
    let passfile = variables["PGPASSFILE"].as_str().unwrap();
    assert_eq!(std::fs::metadata(passfile).unwrap().permissions().mode() & 0o777, 0o600);
    let others = desk.json(&["env", "production", "--role", "somebody", "--json"]);
    assert_eq!((&others["PGUSER"], others.get("PGPASSFILE")), (&json!("somebody"), None));

    let psql = |with: &str| format!("psql {with} -AtXc 'SELECT current_user'");
    if !desk.command("sh").args(["-c", "command -v psql"]).output().unwrap().status.success() {
        // Past the harness's capture, for the summary of a CI run.
        std::io::stderr().write_all(b"SKIPPED: connecting by `ana url`: no psql on PATH\n").unwrap();
        return;
    }
    for format in ["uri", "dsn"] {
        let line = psql(&format!("\"$(./ana url production --format {format})\""));
        assert_eq!(shell(&desk, &line), OWNER, "{format}");
    }
    for command in ["url production --format env", "env production"] {
        let line = format!("set -a; eval \"$(./ana {command})\"; {}", psql(""));
        assert_eq!(shell(&desk, &line), OWNER, "{command}");
    }
    let line = format!("set -a; eval \"$(./ana env production)\"; {}", psql("\"$DATABASE_URL\""));
    assert_eq!(shell(&desk, &line), OWNER);
}

#[test]
fn a_daemon_elsewhere_is_reached_encrypted_if_its_certificate_is_known() {
    let desk = Desk::new("https", run_as::choose(None).unwrap().map(|choice| choice.user));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| desk.path.join(name));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    desk.succeed(&["up", "--owner", OWNER, "--http-tls-cert", certificate, "--http-tls-key", key]);
    let token = desk.json(&["token", "create", "--json"])["token"].as_str().unwrap().to_owned();
    let port = address(&desk).rsplit_once(':').unwrap().1.to_owned();
    let ask = |host: &str, known: &str| {
        let mut command = desk.command(desk.path.join("ana"));
        command.env("ANABRANCH_HOST", host).env("ANABRANCH_TOKEN", &token).env("SSL_CERT_FILE", known);
        command.args(["auth", "whoami", "--json"]).output().unwrap()
    };
    let me = ask(&format!("https://localhost:{port}"), certificate);
    assert!(me.status.success(), "{}", String::from_utf8_lossy(&me.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&me.stdout).unwrap()["name"], OWNER);
    // Kept for later commands, but not before it works.
    let run = |arguments: &[&str], input: &str| {
        let mut command = desk.command(desk.path.join("ana"));
        command.env_remove("ANABRANCH_HOME").env("SSL_CERT_FILE", certificate).args(arguments);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let host = format!("https://localhost:{port}");
    assert_eq!(run(&["auth", "login", &host], "dapi-none\n").status.code(), Some(2));
    let file = desk.path.join("home/.config/anabranch/login.json");
    assert!(!file.exists());
    let kept = run(&["auth", "login", &host], &format!("{token}\n"));
    assert!(kept.status.success() && !String::from_utf8_lossy(&kept.stderr).contains(&token), "{kept:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let me = run(&["auth", "whoami", "--json"], "");
    assert_eq!(serde_json::from_slice::<Value>(&me.stdout).unwrap()["name"], OWNER, "{me:?}");
    let short: Value = serde_json::from_slice(&run(&["auth", "token", "--json"], "").stdout).unwrap();
    assert_eq!(short["token_type"], "Bearer");
    let ask_with = |token: &str| {
        let mut command = desk.command(desk.path.join("ana"));
        command.env("ANABRANCH_HOST", &host).env("ANABRANCH_TOKEN", token).env("SSL_CERT_FILE", certificate);
        command.args(["auth", "whoami"]).output().unwrap().status.success()
    };
    assert!(ask_with(short["access_token"].as_str().unwrap()));
    assert!(run(&["auth", "logout"], "").status.success() && !file.exists());

    // Of somebody nobody knows, or for another name.
    let strange = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = desk.path.join("other.pem");
    std::fs::write(&other, strange.cert.pem()).unwrap();
    for (host, known) in [("localhost", other.to_str().unwrap()), ("127.0.0.1", certificate)] {
        let refused = ask(&format!("https://{host}:{port}"), known);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(3) && said.contains("certificate"), "{said}");
    }
}
