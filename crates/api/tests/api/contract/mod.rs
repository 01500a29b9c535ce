//! What real clients rely on, item by item of the contract's list, on one home.

mod bodies;
mod creates;
mod deletes;
mod errors;
mod lists;
mod masks;
mod projects;
mod states;

use std::pin::Pin;

use crate::world::{Answer, World};
use serde_json::{Value, json};

type Check = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Items of the list with the check that shows them. Checks share a home: each works on branches of
/// its own and leaves the project `shop` as it was.
const CHECKS: &[(&[u8], Check)] = &[
    (&[5, 6, 7, 8, 9, 10, 11, 12, 21], |world| {
        Box::pin(bodies::resources_are_bare_and_status_is_whole(world))
    }),
    (&[13, 15, 16, 20], |world| Box::pin(masks::branches(world))),
    (&[13, 15, 16, 18, 20], |world| Box::pin(masks::endpoints(world))),
    (&[13, 14, 15, 16, 18, 19, 20], |world| Box::pin(masks::projects(world))),
    (&[22, 24, 29, 30, 31, 54], |world| Box::pin(creates::a_branch_comes_whole_and_once(world))),
    (&[23, 26], |world| Box::pin(creates::what_exists_is_adopted(world))),
    (&[32, 33, 34, 36, 37, 38, 43, 45, 46], |world| Box::pin(deletes::branches_come_and_go(world))),
    (&[39, 40, 41], |world| Box::pin(deletes::what_must_stay_stays(world))),
    (&[32, 33, 35, 36, 42, 43, 45], |world| Box::pin(projects::come_and_go(world))),
    (&[47, 48, 49], |world| Box::pin(lists::end_and_keep_their_order(world))),
    (&[51, 53, 55], |world| Box::pin(states::settle(world))),
    (&[52], |world| Box::pin(states::computes_are_what_runs(world))),
];

/// Items that are not about these resources, or not about a server, and where they are shown.
const ELSEWHERE: &[(&[u8], &str)] = &[
    (&[1, 2, 3, 4, 50], "identity and start-up: the public HTTP listener"),
    (&[17, 25, 27, 28, 44], "roles and databases"),
    (&[56], "a client's own doing"),
    (&[57], "an imperfection of the original that is not copied"),
    (&[58], "driven by the client itself: tests/python/test_contract.py"),
];

#[test]
fn every_item_of_the_list_has_its_place() {
    let here = CHECKS.iter().flat_map(|(items, _)| items.iter());
    let elsewhere = ELSEWHERE.iter().flat_map(|(items, _)| items.iter());
    let mut all: Vec<u8> = here.clone().chain(elsewhere.clone()).copied().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (1..=58).collect::<Vec<u8>>());
    assert!(!elsewhere.into_iter().any(|item| here.clone().any(|other| other == item)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_rely_on() {
    let world = World::with_shop().await;
    for (items, check) in CHECKS {
        eprintln!("items {items:?}");
        check(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn known_texts() {
    errors::are_the_contracts(&World::with_shop().await).await;
}

const PRODUCTION: &str = "/projects/shop/branches/production";
const FOREVER: &str = r#"{"spec":{"no_expiry":true}}"#;

/// The resource that a change that ended well left behind.
fn done(answer: &Answer) -> &Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["done"], true, "{answer:?}");
    assert_eq!(answer.body.get("error"), None, "{answer:?}");
    &answer.body["response"]
}

fn refused(answer: &Answer, status: u16, code: &str, text: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.body["error_code"], code, "{answer:?}");
    assert!(answer.body["message"].as_str().unwrap().contains(text), "no \"{text}\" in {answer:?}");
}

/// Last segments of the names in a list.
fn ids(answer: &Answer, key: &str) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let items = answer.body[key].as_array().unwrap();
    items.iter().map(|item| item["name"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
}

fn seconds(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
}

fn empty() -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.Empty"})
}

/// Changes something, with a mask that a client has written as it likes.
async fn patch(world: &World, path: &str, mask: &str, body: Value) -> Answer {
    world.patch(&format!("{path}?update_mask={}", mask.replace(',', "%2C")), &body.to_string()).await
}
