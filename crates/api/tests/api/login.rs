//! Every way to prove who one is, and what is left of it afterwards.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use auth::{Audience, Claims, Keyring, Refusal, SigningKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use control::app::TokenIdentity;
use serde_json::{Value, json};

use crate::web::{Reply, Web};
use crate::world::{OWNER, World};

const PROJECTS: &str = "/api/2.0/postgres/projects";
const ME: &str = "/api/2.0/preview/scim/v2/Me";
const TOKENS: &str = "/api/anabranch/v1/tokens";
const CREDENTIALS: &str = "/api/2.0/postgres/credentials";

fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3600)
}

fn assert_refused(reply: &Reply, status: u16, code: &str, text: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.code(), code, "{reply:?}");
    assert!(reply.message().contains(text), "{reply:?}");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_personal_token_lists_projects() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    assert_refused(&web.get("", PROJECTS).await, 401, "UNAUTHENTICATED", "bearer token is needed");
    let token = world.token(json!({"name": "laptop"})).await;
    let list = web.get(&token, PROJECTS).await;
    assert_eq!((list.status, &list.body), (200, &json!({"projects": []})));

    let me = web.get(&token, ME).await;
    assert_eq!(me.body["userName"], OWNER);
    assert_eq!(me.body["emails"][0]["value"], OWNER);
    let org = me.header("x-databricks-org-id").unwrap();
    assert!(org.parse::<i64>().is_ok(), "{org}");
    let whoami = web.get(&token, "/api/anabranch/v1/whoami").await;
    assert_eq!(whoami.body["is_owner"], true);
    assert_eq!(whoami.body["scopes"], json!(["all-apis"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_is_refused() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let good = world.token(json!({})).await;
    let flipped = format!("{}0", &good[..good.len() - 1]);
    let other = auth::Opaque::Personal.make([7; 32]).expose().to_owned();
    for (wrong, reason) in [
        ("x", "malformed"),
        ("a.b.c", "malformed"),
        (flipped.as_str(), "malformed"),
        (other.as_str(), "unknown or was revoked"),
    ] {
        let reply = web.get(wrong, PROJECTS).await;
        assert_refused(&reply, 401, "UNAUTHENTICATED", reason);
        assert!(!reply.message().contains(wrong), "a token is never repeated: {reply:?}");
        assert!(reply.header("www-authenticate").unwrap().contains("invalid_token"), "{reply:?}");
    }
    for header in ["Authorization: Basic eDp5\r\n", "Authorization: Bearer\r\n", "Authorization: \r\n"] {
        let reply = web.raw("GET", PROJECTS, "", header).await;
        assert_eq!(reply.status, 401, "{header}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_when_they_should() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let short = world.token(json!({"ttl": "3600s"})).await;
    let usual = world.token(json!({})).await;
    let endless = world.token(json!({"no_expiry": true})).await;
    let status = async |token: &str| web.get(token, PROJECTS).await.status;
    world.clock.pass(Duration::from_secs(3599));
    assert_eq!(status(&short).await, 200);
    world.clock.pass(Duration::from_secs(2));
    assert_refused(&web.get(&short, PROJECTS).await, 401, "UNAUTHENTICATED", "expired");
    assert_eq!(status(&usual).await, 200);
    world.clock.pass(hours(24 * 90));
    assert_eq!((status(&usual).await, status(&endless).await), (401, 200));

    let listed = web.get(&endless, TOKENS).await.body["tokens"].as_array().unwrap().clone();
    let id = text(&listed.iter().find(|token| token.get("expire_time").is_none()).unwrap()["id"]);
    let gone = web.call(&endless, "DELETE", &format!("{TOKENS}/{id}"), "").await;
    assert_eq!(gone.status, 200, "a token can end itself: {gone:?}");
    assert_eq!(status(&endless).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_shown_once_and_stored_nowhere() {
    let world = World::new().await;
    let token = world.token(json!({"name": "laptop"})).await;
    let bob = world.principal("bob@example.org", "user").await;
    let his = world.token(json!({"principal": bob, "scopes": ["read", "connect"]})).await;
    let listed = world.get(&format!("{TOKENS}?all=true")).await.body.to_string();
    let audit = world.get("/api/anabranch/v1/audit").await.body.to_string();
    assert!(audit.contains("token.create") && audit.contains("scopes read connect"), "{audit}");
    assert!(listed.contains("laptop"), "{listed}");
    let mut kept = listed + &audit;
    for file in ["meta.db", "meta.db-wal"] {
        let bytes = std::fs::read(world.dir.join("home").join(file)).unwrap_or_default();
        kept += &String::from_utf8_lossy(&bytes);
    }
    for secret in [&token, &his] {
        assert!(!kept.contains(secret.as_str()));
        assert!(!kept.contains(&secret["ana_pat_".len()..]));
    }
    // Others' tokens are not to be seen or ended.
    let web = Web::open(&world).await;
    let full = world.token(json!({"principal": bob})).await;
    let own = web.get(&full, TOKENS).await;
    assert_eq!(own.body["tokens"].as_array().unwrap().len(), 2, "{own:?}");
    assert_eq!(web.get(&full, &format!("{TOKENS}?all=true")).await.status, 403);
    let all = world.get(&format!("{TOKENS}?all=true")).await;
    let owners = text(&all.body["tokens"][0]["id"]);
    assert_eq!(web.call(&full, "DELETE", &format!("{TOKENS}/{owners}"), "").await.status, 404);
    let for_another = web.post(&full, TOKENS, &json!({"principal": OWNER}).to_string()).await;
    assert_refused(&for_another, 403, "PERMISSION_DENIED", "owner of this server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_nobody() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let (_, client_id, secret) = service(&world).await;
    let web = Web::open(&world).await;
    let access = text(&credentials(&web, &client_id, &secret).await.body["access_token"]);
    drop(web);
    let world = world.restart().await;
    let web = Web::open(&world).await;
    for token in [&token, &access] {
        assert_eq!(web.get(token, PROJECTS).await.status, 200);
    }
}

/// A service principal: what it is called, its client id and its secret.
async fn service(world: &World) -> (String, String, String) {
    let id = world.principal("ci", "service_principal").await;
    let body = json!({"kind": "client_secret", "principal": "ci"}).to_string();
    let answer = world.post(TOKENS, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["principal"], id.as_str());
    ("ci".to_owned(), id, text(&answer.body["token"]))
}

fn basic(id: &str, secret: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64.encode(format!("{id}:{secret}")))
}

async fn credentials(web: &Web, id: &str, secret: &str) -> Reply {
    web.token("grant_type=client_credentials&scope=all-apis", &basic(id, secret)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_principal_logs_in_with_its_secret() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let (_, id, secret) = service(&world).await;

    // The way the vendor's SDK finds its way.
    let config = web.get("", "/.well-known/databricks-config").await;
    let base = format!("http://{}", web.address);
    assert_eq!(config.body["oidc_endpoint"], format!("{base}/oidc"));
    assert!(config.body["workspace_id"].is_string(), "{config:?}");
    assert_eq!(config.body.get("account_id"), None);
    let discovery = web.get("", "/oidc/.well-known/oauth-authorization-server").await;
    assert_eq!(discovery.body["token_endpoint"], format!("{base}/oidc/v1/token"));
    assert!(discovery.body["authorization_endpoint"].is_string());

    let reply = credentials(&web, &id, &secret).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!((&reply.body["token_type"], &reply.body["expires_in"]), (&json!("Bearer"), &json!(3600)));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let access = text(&reply.body["access_token"]);
    let me = web.get(&access, ME).await;
    assert_eq!((&me.body["userName"], &me.body["displayName"]), (&json!(id), &json!("ci")), "{me:?}");
    let in_form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}&scope=read");
    let narrow = web.token(&in_form, "").await;
    assert_eq!(narrow.body["scope"], "read", "{narrow:?}");
    let narrow = text(&narrow.body["access_token"]);
    assert_eq!(web.post(&narrow, &format!("{PROJECTS}?project_id=x"), "{}").await.status, 403);

    world.clock.pass(Duration::from_secs(3600));
    assert_refused(&web.get(&access, ME).await, 401, "UNAUTHENTICATED", "expired");
    let access = text(&credentials(&web, &id, &secret).await.body["access_token"]);
    assert_eq!(web.get(&access, ME).await.status, 200);
    // The secret itself is no bearer token.
    assert_refused(&web.get(&secret, ME).await, 401, "UNAUTHENTICATED", "not meant for this use");
    assert_eq!(world.delete("/api/anabranch/v1/principals/ci").await.status, 200);
    assert_refused(&web.get(&access, ME).await, 401, "UNAUTHENTICATED", "revoked");
    assert_eq!(credentials(&web, &id, &secret).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_endpoint_refuses_in_oauths_words() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let (_, id, secret) = service(&world).await;
    let personal = world.token(json!({"principal": "ci"})).await;
    let grant = "grant_type=client_credentials";
    let twice = format!("{grant}&client_id={id}&client_secret={secret}");
    let wrong = auth::Opaque::ClientSecret.make([1; 32]).expose().to_owned();
    for (form, headers, status, error) in [
        (grant, basic(&id, &wrong), 401, "invalid_client"),
        (grant, basic(&id, "x"), 401, "invalid_client"),
        (grant, basic(&id, &personal), 401, "invalid_client"),
        (grant, basic("someone", &secret), 401, "invalid_client"),
        (grant, basic("", &secret), 401, "invalid_client"),
        (grant, String::new(), 401, "invalid_client"),
        (grant, "Authorization: Bearer x\r\n".to_owned(), 401, "invalid_client"),
        (&twice, basic(&id, &secret), 400, "invalid_request"),
        ("", basic(&id, &secret), 400, "invalid_request"),
        ("grant_type=password", basic(&id, &secret), 400, "unsupported_grant_type"),
        ("grant_type=client_credentials&scope=sql", basic(&id, &secret), 400, "invalid_scope"),
        ("grant_type=a&grant_type=b", basic(&id, &secret), 400, "invalid_request"),
    ] {
        let reply = web.token(form, &headers).await;
        assert_eq!((reply.status, reply.body["error"].as_str()), (status, Some(error)), "{form} {reply:?}");
        assert!(reply.body["error_description"].is_string(), "{reply:?}");
        assert!(!reply.body.to_string().contains(&secret), "{reply:?}");
    }
    let as_json = web.raw("POST", "/oidc/v1/token", "{}", "Content-Type: application/json\r\n").await;
    assert_eq!(as_json.body["error"], "invalid_request", "{as_json:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn database_tokens_open_one_endpoint_for_an_hour() {
    let world = World::with_shop().await;
    let web = Web::open(&world).await;
    let endpoint = "projects/shop/branches/production/endpoints/primary";
    let token = world.token(json!({})).await;
    let uid = text(&world.get(&format!("/{endpoint}")).await.body["uid"]);
    let ask = async |wish: Value| {
        let mut body = json!({"endpoint": endpoint});
        body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        web.post(&token, CREDENTIALS, &body.to_string()).await
    };
    let life = |reply: &Reply| {
        let end: jiff::Timestamp = text(&reply.body["expire_time"]).parse().unwrap();
        end.as_second() - world.control.now().as_second()
    };
    let usual = ask(json!({})).await;
    assert_eq!(usual.status, 200, "{usual:?}");
    assert!((3595..=3600).contains(&life(&usual)), "{usual:?}");
    let short = ask(json!({"ttl": "600s"})).await;
    assert!((595..=600).contains(&life(&short)), "{short:?}");
    let check = |reply: &Reply| world.control.check_database_token(&text(&reply.body["token"]));
    let who = check(&usual).unwrap();
    assert_eq!(
        (who.principal.name.as_str(), who.endpoint.as_deref(), &who.group),
        (OWNER, Some(&*uid), &None)
    );

    let end = (world.control.now() + jiff::SignedDuration::from_mins(10)).to_string();
    for wrong in [
        json!({"ttl": "10s"}),
        json!({"ttl": "3601s"}),
        json!({"ttl": "soon"}),
        json!({"ttl": "600s", "expire_time": end}),
        json!({"expire_time": "2001-01-01T00:00:00Z"}),
        json!({"endpoint": ""}),
        json!({"endpoint": "projects/shop"}),
    ] {
        assert_refused(&ask(wrong).await, 400, "INVALID_PARAMETER_VALUE", "");
    }
    for (name, noun) in [
        ("projects/none/branches/production/endpoints/primary", "project id not found"),
        ("projects/shop/branches/none/endpoints/primary", "branch id not found"),
        ("projects/shop/branches/production/endpoints/none", "endpoint id not found"),
    ] {
        assert_refused(&ask(json!({"endpoint": name})).await, 404, "NOT_FOUND", noun);
    }
    let narrow = ask(json!({"claims": [{"permission_set": "READ_ONLY"}]})).await;
    assert_refused(&narrow, 501, "NOT_IMPLEMENTED", "claims");

    // No kind of token serves in place of another.
    let database = text(&usual.body["token"]);
    assert_refused(&web.get(&database, ME).await, 401, "UNAUTHENTICATED", "not meant for this use");
    let (_, id, secret) = service(&world).await;
    let access = text(&credentials(&web, &id, &secret).await.body["access_token"]);
    assert_eq!(world.control.check_database_token(&access), Err(Refusal::Purpose));

    // Rotation changes the key, not what is out.
    let before = web.get("", "/oidc/jwks").await.body["keys"].as_array().unwrap().len();
    assert_eq!(world.post("/api/anabranch/v1/signing-keys/rotate", "").await.status, 200);
    let keys = web.get("", "/oidc/jwks").await.body["keys"].as_array().unwrap().clone();
    assert_eq!((before, keys.len()), (1, 2));
    assert!(keys.iter().all(|key| key.get("d").is_none() && key["alg"] == "ES256"), "{keys:?}");
    assert_eq!(check(&usual).unwrap(), who);
    assert_eq!(check(&ask(json!({})).await).unwrap().principal.name, OWNER);

    // By the id in the audit log a single one is taken back.
    let audit = world.get("/api/anabranch/v1/audit").await.body.to_string();
    assert!(audit.contains(&who.token_id) && !audit.contains(&database), "{audit}");
    assert_eq!(world.delete(&format!("{TOKENS}/{}", who.token_id)).await.status, 200);
    assert_eq!(check(&usual), Err(Refusal::Unknown));
    assert!(check(&short).is_ok(), "the others stay");
    world.clock.pass(Duration::from_secs(600));
    assert_eq!(check(&short), Err(Refusal::Expired));
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_in_to_a_database_takes_a_right_on_the_project() {
    let world = World::with_shop().await;
    let web = Web::open(&world).await;
    let eve = world.user("eve@example.org").await;
    let branch = text(&world.get("/projects/shop/branches/production").await.body["uid"]);
    let body = json!({"endpoint": "projects/shop/branches/production/endpoints/primary"}).to_string();
    let hidden = web.post(&eve, CREDENTIALS, &body).await;
    assert_refused(&hidden, 404, "NOT_FOUND", "project id not found");
    let personal = world.control.check_database_token(&eve).unwrap();
    assert_eq!((personal.principal.name.as_str(), &personal.endpoint), ("eve@example.org", &None));
    let may = |who: &TokenIdentity| world.control.may_connect(who, &branch).unwrap();
    assert!(!may(&personal));

    let right = "/api/anabranch/v1/projects/shop/permissions/eve@example.org";
    let grant = world.call("PUT", right, r#"{"permission_level":"CAN_USE"}"#, "").await;
    assert_eq!(grant.status, 200, "{grant:?}");
    assert!(may(&personal));
    let issued = web.post(&eve, CREDENTIALS, &body).await;
    let who = world.control.check_database_token(&text(&issued.body["token"])).unwrap();
    assert!(may(&who));
    let elsewhere = world.control.may_connect(&who, "br-aaaaaaaaaaaaaaaaaaaa").unwrap();
    assert!(!elsewhere, "no such branch");

    // As a group, for members only.
    world.principal("analysts", "group").await;
    let as_group =
        json!({"endpoint": "projects/shop/branches/production/endpoints/primary", "group_name": "analysts"});
    let outsider = web.post(&eve, CREDENTIALS, &as_group.to_string()).await;
    assert_refused(&outsider, 403, "PERMISSION_DENIED", "not a member");
    let member = "/api/anabranch/v1/groups/analysts/members/eve@example.org";
    assert_eq!(world.call("PUT", member, "", "").await.status, 200);
    let issued_group = text(&web.post(&eve, CREDENTIALS, &as_group.to_string()).await.body["token"]);
    let group = world.control.check_database_token(&issued_group).unwrap();
    assert_eq!(group.group.as_deref(), Some("analysts"));
    assert_eq!(world.delete(member).await.status, 200);
    assert_eq!(world.control.check_database_token(&issued_group), Err(Refusal::Unknown), "left the group");

    // A token that may only read opens no database; one for another project opens none here.
    let read = world.token(json!({"principal": "eve@example.org", "scopes": ["read"]})).await;
    assert_eq!(world.control.check_database_token(&read), Err(Refusal::Purpose));
    assert_eq!(web.post(&read, CREDENTIALS, &body).await.status, 403);
    let connect = world.token(json!({"principal": "eve@example.org", "scopes": ["connect"]})).await;
    assert_eq!(web.post(&connect, CREDENTIALS, &body).await.status, 200);
    assert!(may(&world.control.check_database_token(&connect).unwrap()));

    assert_eq!(world.delete(right).await.status, 200);
    assert!(!may(&who), "rights count at the login, not at the issue");
    assert_eq!(world.delete("/api/anabranch/v1/principals/eve@example.org").await.status, 200);
    world.principal("eve@example.org", "user").await;
    let again = world.control.check_database_token(&text(&issued.body["token"]));
    assert_eq!(again, Err(Refusal::Unknown), "a namesake is somebody else");
}

/// A foreign issuer on this machine: answers discovery and keys.
struct Issuer {
    base: String,
    ring: Keyring,
}

impl Issuer {
    fn open() -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let ring = Keyring::new(SigningKey::generate().unwrap(), Vec::new()).unwrap();
        let (own, keys) = (base.clone(), ring.jwks().to_string());
        // Ends with the process: nothing outlives it.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 2048];
                let length = stream.read(&mut request).unwrap_or(0);
                let discovery = json!({"issuer": own, "jwks_uri": format!("{own}/keys")}).to_string();
                let asked = String::from_utf8_lossy(&request[..length]).into_owned();
                let body = if asked.starts_with("GET /keys ") { &keys } else { &discovery };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Issuer { base, ring }
    }

    fn token(&self, world: &World, audience: &str, subject: &str) -> String {
        let now = world.control.now().as_second();
        let claims = Claims {
            iss: self.base.clone(),
            aud: audience.into(),
            sub: subject.into(),
            uid: "-".into(),
            kind: "job".into(),
            endpoint: None,
            group: None,
            scope: None,
            iat: now,
            exp: now + 300,
            jti: "1".into(),
        };
        self.ring.sign(Audience::Api, &claims).unwrap().expose().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_issuers_tokens_stand_for_a_principal() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let issuer = Issuer::open();
    let (_, id, _) = service(&world).await;
    let good = issuer.token(&world, "anabranch", "repo:acme/shop:ref:refs/heads/main");
    assert_refused(&web.get(&good, ME).await, 401, "UNAUTHENTICATED", "not signed by a trusted key");

    let federations = "/api/anabranch/v1/federations";
    let wish = json!({
        "issuer": issuer.base, "audience": "anabranch", "algorithms": ["ES256"], "principal": "ci",
        "conditions": ["sub=repo:acme/shop:*", "kind=job"],
    });
    let made = world.post(federations, &wish.to_string()).await;
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(made.body["principal"], id.as_str());
    let me = web.get(&good, ME).await;
    assert_eq!(me.body["userName"], id.as_str(), "{me:?}");
    for (audience, subject, reason) in [
        ("else", "repo:acme/shop:x", "not meant for this use"),
        ("anabranch", "repo:acme/shop2:x", "match no principal"),
    ] {
        let reply = web.get(&issuer.token(&world, audience, subject), ME).await;
        assert_refused(&reply, 401, "UNAUTHENTICATED", reason);
    }
    let stranger = Issuer { base: issuer.base.clone(), ring: Issuer::open().ring };
    let forged = stranger.token(&world, "anabranch", "repo:acme/shop:x");
    assert_refused(&web.get(&forged, ME).await, 401, "UNAUTHENTICATED", "not signed by a trusted key");

    // The same in exchange for a token of ours.
    let form = |token: &str, client: &str| {
        format!(
            "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={token}\
             &subject_token_type=urn:ietf:params:oauth:token-type:jwt&scope=all-apis&client_id={client}"
        )
    };
    for client in ["", id.as_str()] {
        let reply = web.token(&form(&good, client), "").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let me = web.get(&text(&reply.body["access_token"]), ME).await;
        assert_eq!(me.body["userName"], id.as_str(), "{me:?}");
    }
    for (token, client) in [(&forged, ""), (&good, "someone")] {
        let reply = web.token(&form(token, client), "").await;
        assert_eq!((reply.status, &reply.body["error"]), (400, &json!("invalid_grant")), "{reply:?}");
    }

    let fed = text(&made.body["id"]);
    assert_eq!(world.delete(&format!("{federations}/{fed}")).await.status, 200);
    assert_eq!(web.get(&good, ME).await.status, 401);
    for (key, value) in [
        ("issuer", json!("http://ci.example.org")),
        ("audience", json!("")),
        ("algorithms", json!(["HS256"])),
        ("conditions", json!([])),
        ("conditions", json!(["sub=*"])),
        ("jwks_uri", json!("file:///etc/passwd")),
    ] {
        let mut wrong = wish.clone();
        wrong[key] = value;
        let refused = world.post(federations, &wrong.to_string()).await;
        assert_eq!(refused.status, 400, "{key}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_and_nonsense_are_kept_out() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let token = world.token(json!({})).await;
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let health = web.get("", "/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("ok")));
    for name in ["x-content-type-options", "x-frame-options", "content-security-policy", "cache-control"] {
        assert!(health.header(name).is_some(), "{name}: {health:?}");
    }
    for headers in [
        "Host: evil.example\r\n".to_owned(),
        format!("Origin: http://evil.example\r\n{bearer}"),
        format!("Sec-Fetch-Site: cross-site\r\n{bearer}"),
    ] {
        assert_refused(&web.raw("GET", PROJECTS, "", &headers).await, 403, "PERMISSION_DENIED", "");
    }
    let named = web.raw("GET", PROJECTS, "", &format!("Host: ana.example.org\r\n{bearer}")).await;
    assert_eq!(named.status, 200, "{named:?}");

    for path in ["/", "/api/2.0/none", "/api/2.0/postgres/1234"] {
        assert_refused(&web.get("", path).await, 401, "UNAUTHENTICATED", "");
        assert_refused(&web.get(&token, path).await, 404, "NOT_FOUND", "resource not found");
    }
    let put = web.call(&token, "PUT", "/api/2.0/postgres/projects/x/branches", "{}").await;
    assert_eq!(put.status, 405, "{put:?}");
    let query = web.get(&token, &format!("{PROJECTS}?page_size=x")).await;
    assert_refused(&query, 400, "INVALID_PARAMETER_VALUE", "");
    let long = format!("{{\"x\":\"{}\"}}", "a".repeat(2 << 20));
    let large = web.post(&token, &format!("{PROJECTS}?project_id=x"), &long).await;
    assert_refused(&large, 413, "BAD_REQUEST", "longer than");

    let sent = r#"{"uploadTime":1,"items":[],"protoLogs":["a","b"]}"#;
    let telemetry = web.post(&token, "/telemetry-ext", sent).await;
    assert_eq!((&telemetry.body["numProtoSuccess"], &telemetry.body["errors"]), (&json!(2), &json!([])));

    // A program says that it acts for somebody: it has the same rights, and the log says so.
    let headers = format!("x-anabranch-agent: bot\r\n{bearer}");
    let made = web.raw("POST", TOKENS, "{}", &headers).await;
    assert_eq!(made.status, 200, "{made:?}");
    let audit = world.get("/api/anabranch/v1/audit").await;
    assert_eq!(audit.body["entries"][0]["principal"], format!("bot for {OWNER}"), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_slow_down_nobody_else() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let token = world.token(json!({})).await;
    // One after the other: the same honest answer every time, also beyond the free ones.
    for _ in 0..12 {
        assert_refused(&web.get("wrong", ME).await, 401, "UNAUTHENTICATED", "malformed");
    }
    // All at once: those too many are told to come back.
    let web = std::sync::Arc::new(web);
    let many: Vec<_> = (0..40)
        .map(|_| {
            let web = std::sync::Arc::clone(&web);
            tokio::spawn(async move { web.get("wrong", ME).await })
        })
        .collect();
    assert_eq!(web.get(&token, ME).await.status, 200, "a right token passes in the middle of it");
    let mut busy = 0;
    for reply in many {
        let reply = reply.await.unwrap();
        match reply.status {
            401 => {}
            429 => {
                busy += 1;
                assert!(reply.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1, "{reply:?}");
            }
            _ => panic!("{reply:?}"),
        }
    }
    assert!(busy > 0);
}
