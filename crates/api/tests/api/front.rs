//! The front door as the API shows it, and the way around it.

use tokio_postgres::NoTls;

use crate::world::{OWNER, World};

const SUPERUSER: &str = "/api/anabranch/v1/projects/shop/branches/production/superuser";

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_in_person_becomes_superuser_and_it_is_recorded() {
    let world = World::with_shop().await;
    let agent = world.call("POST", SUPERUSER, "", "x-anabranch-agent: helper\r\n").await;
    assert_eq!((agent.status, agent.body["error_code"].as_str()), (403, Some("PERMISSION_DENIED")));
    let access = world.post(SUPERUSER, "").await;
    assert_eq!(access.status, 200, "{access:?}");
    let text = |key: &str| access.body[key].as_str().unwrap().to_owned();
    let mut config = tokio_postgres::Config::new();
    config.host_path(text("socket_dir")).user(text("role")).dbname(text("database"));
    config.password(text("password"));
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("SHOW is_superuser", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "on");

    // The front door does not let it in.
    let mut config = world.config("production").await;
    config.user(text("role")).password(text("password"));
    let error = config.connect(world.tls()).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "28P01");

    let log = world.get("/api/anabranch/v1/audit").await;
    let entries: Vec<(String, String)> = log.body["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "branch.superuser")
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap().to_owned();
            (text("principal"), text("result"))
        })
        .collect();
    let expected =
        [(OWNER.to_owned(), "done".to_owned()), (format!("helper for {OWNER}"), "refused".to_owned())];
    assert_eq!(entries, expected);
    assert!(!log.body.to_string().contains(&text("password")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_by_which_servers_are_known() {
    let world = World::with_shop().await;
    let answer = world.get("/api/anabranch/v1/ca").await;
    let (pem, file) = world.certificates.authority().unwrap();
    assert_eq!(answer.body["certificate"].as_str(), Some(pem));
    assert_eq!(answer.body["file"].as_str(), file.to_str());
    assert_eq!(world.connection("production").await["ca_file"].as_str(), file.to_str());
    let mut elsewhere = world.config("production").await;
    elsewhere.ssl_mode(tokio_postgres::config::SslMode::Disable);
    let error = elsewhere.connect(NoTls).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "28000");
}
