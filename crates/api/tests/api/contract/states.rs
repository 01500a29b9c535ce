use super::{FOREVER, PRODUCTION, done, ids, refused, seconds};
use crate::world::World;
use compute::engine::{BranchKey, StopMode};
use serde_json::json;

pub async fn settle(world: &World) {
    let branch = world.branch("settled", FOREVER).await;
    let path = format!("/{}/endpoints/primary", branch["name"].as_str().unwrap());
    // Never started, and yet it has its address.
    let endpoint = world.get(&path).await.body;
    assert_eq!(endpoint["status"]["current_state"], "IDLE");
    assert!(!endpoint["status"]["hosts"]["host"].as_str().unwrap().is_empty());
    let changed = super::patch(world, &path, "spec.disabled", json!({"spec": {"disabled": false}})).await;
    assert_eq!(done(&changed)["status"].get("pending_state"), None);
    assert_eq!(world.get(&path).await.body["status"].get("pending_state"), None);
    // No optimistic locks: what clients of other services send along changes nothing.
    let body = r#"{"etag":"old","request_id":"twice","spec":{"is_protected":false}}"#;
    let path =
        format!("/{}?update_mask=spec.is_protected&request_id=twice", branch["name"].as_str().unwrap());
    assert_eq!(done(&world.patch(&path, body).await).get("etag"), None);
    done(&world.patch(&path, body).await);
}

pub async fn computes_are_what_runs(world: &World) {
    let endpoint = format!("{PRODUCTION}/endpoints/primary");
    let computes = format!("{endpoint}/compute-instances");
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
    assert_eq!(world.get(&endpoint).await.body["status"]["current_state"], "ACTIVE");
    let active = world.get("/projects/shop").await.body["status"]["compute_last_active_time"].clone();
    assert!(active.is_string(), "{active}");
    let list = world.get(&computes).await;
    let [id] = ids(&list, "compute_instances").try_into().unwrap();
    let compute = &list.body["compute_instances"][0];
    assert_eq!((&compute["current_state"], &compute["role"]), (&json!("ACTIVE"), &json!("READ_WRITE")));
    let project = world.get("/projects/shop").await.body;
    let host = &world.get(&endpoint).await.body["status"]["hosts"]["host"];
    assert_eq!(&compute["compute_host"], host);
    assert!(seconds(&compute["start_time"]) >= seconds(&project["create_time"]));
    assert_eq!(&world.get(&format!("{computes}/{id}")).await.body, compute);
    refused(
        &world.get(&format!("{computes}/other")).await,
        404,
        "NOT_FOUND",
        "compute instance id not found",
    );

    let production = world.get(PRODUCTION).await.body;
    let key = BranchKey::new(production["uid"].as_str().unwrap()).unwrap();
    world.engine.stop(&key, StopMode::Fast).unwrap();
    assert_eq!(world.get(&endpoint).await.body["status"]["current_state"], "IDLE");
    let asleep = world.get(&format!("{computes}/{id}")).await.body;
    assert_eq!((&asleep["current_state"], asleep.get("start_time")), (&json!("IDLE"), None));

    // The settings of an endpoint are those of the next server.
    let settings = json!({"spec": {"settings": {"pg_settings": {"work_mem": "9MB"}}}});
    done(&super::patch(world, &endpoint, "spec.settings.pg_settings", settings).await);
    let session = world.connect("production").await;
    let row = session.query_one("SHOW work_mem", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "9MB");
    done(&super::patch(world, &endpoint, "spec.settings.pg_settings", json!({})).await);
}
