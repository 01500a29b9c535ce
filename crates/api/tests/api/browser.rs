//! Logging in through a browser.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use crate::web::{Reply, Web};
use crate::world::World;

const AUTHORIZE: &str = "/oidc/v1/authorize";
const ME: &str = "/api/2.0/preview/scim/v2/Me";
const VERIFIER: &str = "a-verifier-of-the-program-that-nobody-else-knows";
const BOB: &str = "bob@example.org";

/// What a program puts into the address.
fn wish() -> String {
    let hex = auth::Digest::of(VERIFIER).to_hex();
    let bytes: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
    format!(
        "response_type=code&client_id=databricks-cli&redirect_uri=http%3A%2F%2Flocalhost%3A8020\
         &code_challenge={}&code_challenge_method=S256&scope=all-apis+offline_access&state=a+b",
        BASE64URL.encode(bytes)
    )
}

/// Gives a token on the page; the code that it leads to.
async fn code(web: &Web, token: &str) -> String {
    let reply = web.form(AUTHORIZE, &format!("{}&token={token}", wish()), "").await;
    assert_eq!(reply.status, 303, "{reply:?}");
    let address = reply.header("location").unwrap();
    let code = address
        .strip_prefix("http://localhost:8020?code=")
        .and_then(|rest| rest.strip_suffix("&state=a%20b"));
    code.unwrap_or_else(|| panic!("{address}")).to_owned()
}

async fn redeem(web: &Web, code: &str, verifier: &str) -> Reply {
    let form = format!(
        "grant_type=authorization_code&client_id=databricks-cli&redirect_uri=http%3A%2F%2Flocalhost%3A8020\
         &code={code}&code_verifier={verifier}"
    );
    web.token(&form, "").await
}

fn refused(reply: &Reply) {
    assert_eq!((reply.status, &reply.body["error"]), (400, &json!("invalid_grant")), "{reply:?}");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_tokens_of_whoever_shows_one() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let bob = world.user(BOB).await;
    let page = web.get("", &format!("{AUTHORIZE}?{}", wish())).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert!(text(&page.body).contains("<b>databricks-cli</b>"), "{page:?}");
    assert!(page.header("content-security-policy").unwrap().contains("form-action 'self'"), "{page:?}");
    assert_eq!(page.header("x-frame-options"), Some("DENY"));

    let got = redeem(&web, &code(&web, &bob).await, VERIFIER).await;
    assert_eq!(got.status, 200, "{got:?}");
    assert_eq!(got.body["scope"], "all-apis");
    let me = web.get(text(&got.body["access_token"]), ME).await;
    assert_eq!(me.body["userName"], BOB);

    let refresh = text(&got.body["refresh_token"]);
    let renew = async || web.token(&format!("grant_type=refresh_token&refresh_token={refresh}"), "").await;
    let again = renew().await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(web.get(text(&again.body["access_token"]), ME).await.body["userName"], BOB);
    let tokens = web.get(&bob, "/api/anabranch/v1/tokens").await;
    let tokens = tokens.body["tokens"].as_array().unwrap().clone();
    let login = tokens.iter().find(|token| token["name"] == "login of databricks-cli").unwrap();
    web.call(&bob, "DELETE", &format!("/api/anabranch/v1/tokens/{}", text(&login["id"])), "").await;
    refused(&renew().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_good_once_for_a_minute_and_for_its_program() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let bob = world.user(BOB).await;
    let first = code(&web, &bob).await;
    refused(&redeem(&web, &first, "somebody-elses").await);
    refused(&redeem(&web, &first, VERIFIER).await);
    let second = code(&web, &bob).await;
    world.clock.pass(Duration::from_secs(61));
    refused(&redeem(&web, &second, VERIFIER).await);
    let third = code(&web, &bob).await;
    assert_eq!(redeem(&web, &third, VERIFIER).await.status, 200);
    refused(&redeem(&web, &third, VERIFIER).await);
    refused(&redeem(&web, "none", VERIFIER).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_order_leads_nowhere() {
    let world = World::new().await;
    let web = Web::open(&world).await;
    world.principal(BOB, "user").await;
    let narrow = world.token(json!({"principal": BOB, "scopes": ["read"]})).await;
    for token in [narrow.as_str(), "x", ""] {
        let reply = web.form(AUTHORIZE, &format!("{}&token={token}", wish()), "").await;
        assert_eq!((reply.status, reply.header("location")), (200, None), "{reply:?}");
        assert!(text(&reply.body).contains("Not accepted"), "{reply:?}");
        assert!(token.len() < 2 || !text(&reply.body).contains(token), "{reply:?}");
    }
    for (good, wrong) in [
        ("localhost%3A8020", "evil.example"),
        ("response_type=code", "response_type=token"),
        ("S256", "plain"),
        ("code_challenge=", "code_challenge=x"),
        ("databricks-cli", ""),
        ("all-apis", "sql"),
    ] {
        let reply = web.get("", &format!("{AUTHORIZE}?{}", wish().replace(good, wrong))).await;
        assert_eq!((reply.status, reply.code()), (400, "INVALID_PARAMETER_VALUE"), "{wrong}: {reply:?}");
    }
    let evil = wish().replace("databricks-cli", "%3Cscript%3E");
    let page = web.get("", &format!("{AUTHORIZE}?{evil}")).await;
    assert!(!text(&page.body).contains("<script"), "{page:?}");
    let foreign = web.form(AUTHORIZE, &wish(), "Origin: http://evil.example\r\n").await;
    assert_eq!(foreign.status, 403, "{foreign:?}");
}
